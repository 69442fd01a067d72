"""Drawing a token from each row's whole distribution, without penalties, grammar, top-k, top-p and min-p."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from roost_worker.model import counter_rng


@dataclass(frozen=True, slots=True)
class DrawInputs:
    """What a row's draw depends on beside its logits."""

    temperatures: Tensor
    """[rows] float64; 0 takes the largest logit."""
    seeds: Tensor
    """[rows] int64, read as 64 bits."""
    positions: Tensor
    """[rows] int64: where the token goes."""


@dataclass(frozen=True, slots=True)
class WholeDraws:
    """The draws of a decode step, all of them from whole distributions. They are on the host."""

    temperatures: "np.ndarray"
    """[rows] float64; 0 takes the largest logit."""
    seeds: "np.ndarray"
    """[rows] int64."""


class Drawing(Protocol):
    """Draws by one way of computing noise. Every row of a worker is drawn by the same, in whatever batch it is."""

    def largest(self, logits: Tensor) -> Tensor:
        """Return the largest of each row's logits, [rows, vocabulary] of any float type: [rows] int64."""
        ...

    def random(self, logits: Tensor, inputs: DrawInputs) -> Tensor:
        """Draw for rows whose temperatures are above 0: [rows] int64.

        Args:
            logits: [rows, vocabulary], float32 or float64.
        """
        ...


class TorchDrawing:
    """Draws by torch's operators, on any device."""

    def __init__(self, token_words: Tensor) -> None:
        """`token_words` are those of the whole vocabulary, by `counter_rng.token_words`."""
        self._token_words = token_words

    def largest(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=1)

    def random(self, logits: Tensor, inputs: DrawInputs) -> Tensor:
        keys = counter_rng.position_keys(inputs.seeds, inputs.positions)
        noise = counter_rng.gumbel(counter_rng.random_words(keys, self._token_words))
        return (logits / inputs.temperatures.to(logits.dtype)[:, None] + noise).argmax(dim=1)


def no_noise(rows: int, device: torch.device) -> DrawInputs:
    """Return inputs of rows that take their largest logits."""
    zeros = torch.zeros(rows, dtype=torch.int64, device=device)
    return DrawInputs(zeros.double(), zeros, zeros)
