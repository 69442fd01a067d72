"""Drawing by Triton kernels, on GPUs: no row is sorted, and nothing of the logits' size is kept."""

import numpy as np
import torch
import triton
from torch import Tensor

from roost_worker.model.batch import to_device
from roost_worker.model.drawing import Draws
from roost_worker.triton_kernels.draw import draw_tiles, find_floors, merge_tiles

TILE = 2048
"""Tokens of a program that draws: 16 of each thread, for which a GPU has registers."""
FLOOR_TILE, FLOOR_WARPS = 4096, 8
"""Of a program that walks through a whole row."""
_SPARE_BITS = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}
"""Bits of a float32 that are 0 in each number of the type."""


class TritonDrawing:
    """A `Drawing`."""

    def largest(self, logits: Tensor) -> Tensor:
        zeros = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        nothing = zeros.double()
        return self.draw_on_device(logits, Draws(nothing, zeros, zeros, zeros, nothing, nothing))

    def draw(self, logits: Tensor, draws: "Draws[np.ndarray]") -> Tensor:
        """Draw as `Drawing.draw` says, of logits of any type that a GPU computes with."""
        columns = (draws.seeds, draws.positions, draws.top_ks)
        bits = (column.view(np.int64) for column in (draws.temperatures, draws.top_ps, draws.min_ps))
        seeds, positions, top_ks, *floats = to_device(np.stack((*columns, *bits)), logits.device)  # one copy
        temperatures, top_ps, min_ps = (column.view(torch.float64) for column in floats)
        return self.draw_on_device(logits, Draws(temperatures, seeds, positions, top_ks, top_ps, min_ps))

    def draw_on_device(self, logits: Tensor, draws: Draws[Tensor]) -> Tensor:
        """Draw as `draw` does, where nothing waits for the device: it may be recorded in a CUDA graph."""
        logits = logits.contiguous()
        rows, vocab = logits.shape
        tiles = triton.cdiv(vocab, TILE)
        floors = torch.empty(rows, dtype=torch.int32, device=logits.device)
        best = torch.empty(rows, tiles, 2, dtype=torch.float64, device=logits.device)
        tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
        find_floors[(rows,)](
            logits, draws.temperatures, draws.top_ks, draws.top_ps, draws.min_ps, floors,
            VOCAB=vocab, TILE=FLOOR_TILE, SPARE=_SPARE_BITS[logits.dtype], num_warps=FLOOR_WARPS,
        )  # fmt: skip
        draw_tiles[(rows, tiles)](
            logits, draws.temperatures, draws.seeds, draws.positions, floors, best, VOCAB=vocab, TILES=tiles, TILE=TILE
        )
        merge_tiles[(rows,)](best, tokens, TILES=tiles, WIDTH=triton.next_power_of_2(tiles))
        return tokens
