"""Drawing a token of each row: the largest of logits / temperature + noise, of what top-k, top-p and min-p leave."""

from dataclasses import dataclass, fields
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from roost_worker.model import counter_rng
from roost_worker.model.logits import apply_min_p, truncate

_Array = TypeVar("_Array", "np.ndarray", Tensor)


@dataclass(frozen=True, slots=True)
class Draws(Generic[_Array]):
    """What each row's draw depends on beside its logits. Arrays are [rows]."""

    temperatures: _Array
    """float64; 0 takes the largest logit, whatever the rest says."""
    seeds: _Array
    """int64, read as 64 bits."""
    positions: _Array
    """int64: where the token goes."""
    top_ks: _Array
    """int64, 0 for no limit."""
    top_ps: _Array
    """float64 in (0, 1], 1 for no limit."""
    min_ps: _Array
    """float64, 0 for no limit."""

    def at(self, rows: _Array) -> "Draws[_Array]":
        """Return those of some rows."""
        return Draws(*(getattr(self, field.name)[rows] for field in fields(self)))


class Drawing(Protocol):
    """A way of drawing. A worker draws every row by the same one, in whatever batch it is."""

    def largest(self, logits: Tensor) -> Tensor:
        """Return the largest of each row's logits, [rows, vocabulary] of any float type: [rows] int64."""
        ...

    def draw(self, logits: Tensor, draws: "Draws[np.ndarray]") -> Tensor:
        """Draw a token of each row: [rows] int64.

        Args:
            logits: [rows, vocabulary], float32 or float64.
        """
        ...


class TorchDrawing:
    """Draws by torch's operators, on any device."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._device = device
        self._token_words = counter_rng.token_words(torch.arange(vocab_size, device=device))

    def largest(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=1)

    def draw(self, logits: Tensor, draws: "Draws[np.ndarray]") -> Tensor:
        tokens = torch.empty(len(logits), dtype=torch.int64, device=self._device)
        is_random = draws.temperatures > 0
        is_cut = is_random & ((draws.top_ks > 0) | (draws.top_ps < 1.0))
        for rows, draw in (
            (np.flatnonzero(~is_random), None),
            (np.flatnonzero(is_random & ~is_cut), self._draw_from_all),
            (np.flatnonzero(is_cut), self._draw_from_candidates),
        ):
            if not rows.size:
                continue
            index = torch.from_numpy(rows).to(self._device)
            picked = logits if rows.size == len(logits) else logits[index]
            tokens[index] = self.largest(picked) if draw is None else draw(picked, draws.at(rows))
        return tokens

    def _draw_from_all(self, logits: Tensor, draws: "Draws[np.ndarray]") -> Tensor:
        scaled = self._apply_min_p(self._scale(logits, draws), draws)
        noise = counter_rng.gumbel(counter_rng.random_words(self._keys(draws), self._token_words))
        return (scaled + noise).argmax(dim=1)

    def _draw_from_candidates(self, logits: Tensor, draws: "Draws[np.ndarray]") -> Tensor:
        top_k = self._column(draws.top_ks, torch.int64)
        values, ids = truncate(self._scale(logits, draws), top_k, self._column(draws.top_ps, logits.dtype))
        values = self._apply_min_p(values, draws)
        noise = counter_rng.gumbel(counter_rng.random_words(self._keys(draws), self._token_words[ids]))
        return ids.gather(1, (values + noise).argmax(dim=1, keepdim=True)).squeeze(1)

    def _scale(self, logits: Tensor, draws: "Draws[np.ndarray]") -> Tensor:
        return logits / self._column(draws.temperatures, logits.dtype)[:, None]

    def _apply_min_p(self, scaled: Tensor, draws: "Draws[np.ndarray]") -> Tensor:
        if not draws.min_ps.any():
            return scaled
        return apply_min_p(scaled, self._column(draws.min_ps, scaled.dtype))

    def _keys(self, draws: "Draws[np.ndarray]") -> Tensor:
        return counter_rng.position_keys(
            self._column(draws.seeds, torch.int64), self._column(draws.positions, torch.int64)
        )

    def _column(self, column: "np.ndarray", dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(column).to(device=self._device, dtype=dtype)
