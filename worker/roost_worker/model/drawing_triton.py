"""Drawing by Triton kernels, on GPUs: the logits are read once, and nothing else of the vocabulary's size is kept."""

import torch
import triton
from torch import Tensor

from roost_worker.model.drawing import DrawInputs, no_noise
from roost_worker.triton_kernels.draw import draw_tiles, merge_tiles

TILE = 2048
"""Tokens of a program: 16 of each thread, for which a GPU has registers."""


class TritonDrawing:
    """A `Drawing`. It may be recorded in a CUDA graph."""

    def largest(self, logits: Tensor) -> Tensor:
        return self.draw(logits, no_noise(len(logits), logits.device))

    def random(self, logits: Tensor, inputs: DrawInputs) -> Tensor:
        return self.draw(logits, inputs)

    def draw(self, logits: Tensor, inputs: DrawInputs) -> Tensor:
        """Draw for rows of any temperatures: [rows] int64.

        Args:
            logits: [rows, vocabulary] of any float type.
        """
        logits = logits.contiguous()
        rows, vocab = logits.shape
        tiles = triton.cdiv(vocab, TILE)
        best = torch.empty(rows, tiles, 2, dtype=torch.float64, device=logits.device)
        tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
        draw_tiles[(rows, tiles)](
            logits, inputs.temperatures, inputs.seeds, inputs.positions, best, VOCAB=vocab, TILES=tiles, TILE=TILE
        )
        merge_tiles[(rows,)](best, tokens, TILES=tiles, WIDTH=triton.next_power_of_2(tiles))
        return tokens
