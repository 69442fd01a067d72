"""The sampler's state of each running sequence, as columns indexed by slot, so that a batch is read at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from roost_worker.engine.messages import SamplingParams
from roost_worker.engine.plan import NewSlot

if TYPE_CHECKING:
    from roost_worker.grammar import GrammarState


class Need(IntFlag):
    """What a sequence needs beyond the largest logit. A batch that needs nothing is one argmax."""

    PENALTIES = 1
    BIAS = 2
    MIN_TOKENS = 4
    GRAMMAR = 8
    RANDOM = 16
    LOGPROBS = 32


def needs(params: SamplingParams, grammar: str | None) -> Need:
    """Return what these parameters need."""
    need = Need(0)
    if params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0:
        need |= Need.PENALTIES
    if params.logit_bias:
        need |= Need.BIAS
    if params.min_tokens and params.stop_token_ids:
        need |= Need.MIN_TOKENS
    if grammar is not None:
        need |= Need.GRAMMAR
    if params.temperature > 0.0:
        need |= Need.RANDOM
    if params.logprobs is not None:
        need |= Need.LOGPROBS
    return need


@dataclass(slots=True)
class SlotExtras:
    """State without a fixed size: kept per slot, read only for rows that need it."""

    stop_ids: Tensor
    bias_ids: Tensor
    bias_values: Tensor
    grammar: "GrammarState | None" = None
    complete: bool = False
    """Whether the slot's replayed output completes the grammar already: nothing may be drawn."""
    error: str = ""


@dataclass(slots=True)
class Columns:
    """One array per parameter, [slots]."""

    need: "np.ndarray" = field(default_factory=lambda: np.zeros(0, np.int64))
    temperature: "np.ndarray" = field(default_factory=lambda: np.zeros(0, np.float64))
    top_p: "np.ndarray" = field(default_factory=lambda: np.zeros(0, np.float64))
    min_p: "np.ndarray" = field(default_factory=lambda: np.zeros(0, np.float64))
    top_k: "np.ndarray" = field(default_factory=lambda: np.zeros(0, np.int64))
    presence: "np.ndarray" = field(default_factory=lambda: np.zeros(0, np.float64))
    frequency: "np.ndarray" = field(default_factory=lambda: np.zeros(0, np.float64))
    repetition: "np.ndarray" = field(default_factory=lambda: np.zeros(0, np.float64))
    seed: "np.ndarray" = field(default_factory=lambda: np.zeros(0, np.int64))
    min_tokens: "np.ndarray" = field(default_factory=lambda: np.zeros(0, np.int64))
    produced: "np.ndarray" = field(default_factory=lambda: np.zeros(0, np.int64))
    logprobs: "np.ndarray" = field(default_factory=lambda: np.zeros(0, np.int64))

    def grow(self, size: int) -> None:
        for name in self.__slots__:
            column = getattr(self, name)
            setattr(self, name, np.concatenate((column, np.zeros(size - len(column), column.dtype))))


class SlotTable:
    """All slots. Grows to the largest slot taken; the engine reuses slots, so there are at most maxRunning."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.columns = Columns()
        self.extras: dict[int, SlotExtras] = {}
        self._vocab_size = vocab_size
        self._device = device
        # [slots, vocabulary]; allocated for the first sequence with penalties.
        self.counts = torch.zeros((0, vocab_size), dtype=torch.int32, device=device)
        self.seen = torch.zeros((0, vocab_size), dtype=torch.bool, device=device)

    def take(self, new: NewSlot) -> None:
        """Fill a slot, replacing what was in it. The sampler adds the grammar's state."""
        params, slot = new.sampling, new.slot
        if slot >= len(self.columns.need):
            self.columns.grow(max(slot + 1, 2 * len(self.columns.need)))
        need = needs(params, new.grammar)
        self._fill_columns(slot, params, need, len(new.output))
        self.extras[slot] = self._extras(params)
        if need & Need.PENALTIES:
            self._count(new)

    def free(self, slot: int) -> None:
        """Forget a slot; freeing an empty one does nothing."""
        if self.extras.pop(slot, None) is not None:
            self.columns.need[slot] = 0

    def record(self, slots: "np.ndarray", tokens: Tensor) -> None:
        """Count one drawn token per slot; `tokens` [slots], on the table's device if one of the slots has penalties."""
        self.columns.produced[slots] += 1
        counted = np.flatnonzero(self.columns.need[slots] & Need.PENALTIES)
        if counted.size:
            rows = torch.from_numpy(slots[counted]).to(self._device)
            ids = tokens[torch.from_numpy(counted).to(self._device)]
            self.counts[rows, ids] += 1
            self.seen[rows, ids] = True

    def record_forced(self, slot: int, ids: Sequence[int]) -> None:
        """Count tokens of one slot that were not drawn."""
        self.columns.produced[slot] += len(ids)
        if ids and self.columns.need[slot] & Need.PENALTIES:
            index = torch.tensor(ids, device=self._device)
            self.counts[slot] += torch.bincount(index, minlength=self._vocab_size)
            self.seen[slot, index] = True

    def _fill_columns(self, slot: int, params: SamplingParams, need: Need, produced: int) -> None:
        columns = self.columns
        columns.need[slot] = need
        columns.temperature[slot] = params.temperature
        columns.top_p[slot], columns.top_k[slot], columns.min_p[slot] = params.top_p, params.top_k, params.min_p
        columns.presence[slot], columns.frequency[slot] = params.presence_penalty, params.frequency_penalty
        columns.repetition[slot] = params.repetition_penalty
        columns.seed[slot] = np.uint64(params.seed & 0xFFFFFFFFFFFFFFFF).astype(np.int64)
        columns.min_tokens[slot], columns.produced[slot] = params.min_tokens, produced
        columns.logprobs[slot] = 0 if params.logprobs is None else params.logprobs

    def _extras(self, params: SamplingParams) -> SlotExtras:
        stop_ids = [token for token in sorted(params.stop_token_ids) if 0 <= token < self._vocab_size]
        bias = [(token, value) for token, value in params.logit_bias if 0 <= token < self._vocab_size]
        return SlotExtras(
            stop_ids=torch.tensor(stop_ids, dtype=torch.int64, device=self._device),
            bias_ids=torch.tensor([token for token, _ in bias], dtype=torch.int64, device=self._device),
            bias_values=torch.tensor([value for _, value in bias], dtype=torch.float32, device=self._device),
        )

    def _count(self, new: NewSlot) -> None:
        missing = len(self.columns.need) - self.counts.shape[0]
        if missing > 0:
            self.counts = torch.cat((self.counts, self.counts.new_zeros((missing, self._vocab_size))))
            self.seen = torch.cat((self.seen, self.seen.new_zeros((missing, self._vocab_size))))
        output = torch.from_numpy(np.asarray(new.output).astype(np.int64)).to(self._device)
        context = torch.from_numpy(np.asarray(new.context).astype(np.int64)).to(self._device)
        self.counts[new.slot] = torch.bincount(output, minlength=self._vocab_size)
        self.seen[new.slot] = self.counts[new.slot] > 0
        self.seen[new.slot, context] = True
