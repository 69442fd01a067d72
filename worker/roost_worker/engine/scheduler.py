"""Chooses what runs next: decode rows first, then chunks of prefill, in one mixed batch."""

from bisect import insort
from dataclasses import dataclass

from roost_worker.engine.cache import SequenceCache
from roost_worker.engine.plan import BatchPlan, Chunk, NewSlot
from roost_worker.engine.sequence import NO_SLOT, Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence's part of a batch."""

    sequence: Sequence
    tokens: int
    decode: bool


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """A plan, and the sequences behind its chunks and its restores, in the same order."""

    plan: BatchPlan
    rows: tuple[Row, ...]
    restoring: tuple[Sequence, ...] = ()


class Scheduler:
    """Waiting and running sequences, both ordered by priority, then first come, first served.

    A sequence is admitted when there is a free slot and room for the blocks of its whole context; none overtakes the
    first that waits. When decoding needs a block and none can be evicted, the last running sequence is preempted:
    its full blocks stay cached, its ids are kept, and it waits in its old place.
    """

    def __init__(self, cache: SequenceCache, max_running: int, max_batch_tokens: int) -> None:
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.preemptions = 0
        self._cache = cache
        self._max_batch_tokens = max_batch_tokens
        self._free_slots = list(range(max_running - 1, -1, -1))
        self._freed: list[int] = []

    def add(self, sequence: Sequence, now: float) -> None:
        """Queue `sequence` to run."""
        insort(self.waiting, sequence, key=_order)
        self._set_wanted(sequence, True, now)

    def remove(self, sequence: Sequence, now: float) -> None:
        """Remove `sequence`, which is over. The caller parks or releases its blocks."""
        if sequence.slot != NO_SLOT:
            self.running.remove(sequence)
            self._free_slot(sequence)
        else:
            self.waiting.remove(sequence)
            self._set_wanted(sequence, False, now)

    def schedule(self, now: float) -> ScheduledBatch | None:
        """Return the next batch, or None when nothing can run."""
        rows = self._decode_rows(now)
        budget = self._max_batch_tokens - len(rows)
        restoring: list[Sequence] = []
        for sequence in self.running:
            if not sequence.decoding:
                budget -= self._restore_or_prefill(sequence, budget, rows, restoring)
        new: list[Sequence] = []
        while budget and (admitted := self._admit(now)):
            new.append(admitted)
            budget -= self._restore_or_prefill(admitted, budget, rows, restoring)
        return self._batch(rows, new, restoring) if rows or restoring else None

    def _decode_rows(self, now: float) -> list[Row]:
        decoding = [sequence for sequence in self.running if sequence.decoding]
        return [Row(sequence, 1, decode=True) for sequence in decoding if self._grow(sequence, now)]

    def _grow(self, sequence: Sequence, now: float) -> bool:
        """Make room for one more token. Return False when `sequence` was preempted, now or by an earlier row."""
        while sequence.slot != NO_SLOT and not self._cache.grow(sequence, now):
            self._preempt(self.running[-1], now)
        return sequence.slot != NO_SLOT

    def _preempt(self, sequence: Sequence, now: float) -> None:
        self.preemptions += 1
        self.remove(sequence, now)
        self._cache.release(sequence, now)
        self.add(sequence, now)

    def _restore_or_prefill(self, sequence: Sequence, budget: int, rows: list[Row], restoring: list[Sequence]) -> int:
        """Continue a sequence that does not decode yet. Return how many tokens of `budget` it takes."""
        if self._cache.plan_restores(sequence):
            restoring.append(sequence)
            return 0
        tokens = min(budget, len(sequence.ids) - sequence.computed)
        if tokens:
            rows.append(Row(sequence, tokens, decode=False))
            sequence.prefilled = True
        return tokens

    def _admit(self, now: float) -> Sequence | None:
        """Move the first waiting sequence to the running ones, if it fits."""
        if not self.waiting or not self._free_slots or not self._cache.admit(self.waiting[0], now):
            return None
        sequence = self.waiting.pop(0)
        self._set_wanted(sequence, False, now)
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed
            sequence.queue_seconds = now - sequence.submitted
        sequence.slot = self._free_slots.pop()
        insort(self.running, sequence, key=_order)
        return sequence

    def _set_wanted(self, sequence: Sequence, wanted: bool, now: float) -> None:
        if sequence.request.session:
            self._cache.retained.set_wanted(sequence.request.session, wanted, now)

    def _free_slot(self, sequence: Sequence) -> None:
        self._freed.append(sequence.slot)
        self._free_slots.append(sequence.slot)
        sequence.slot = NO_SLOT

    def _batch(self, rows: list[Row], new: list[Sequence], restoring: list[Sequence]) -> ScheduledBatch:
        freed, self._freed = tuple(self._freed), []
        chunks = tuple(self._chunk(row) for row in rows)
        plan = BatchPlan(chunks, tuple(map(_new_slot, new)), freed, self._cache.host.take_copies())
        return ScheduledBatch(plan, tuple(rows), tuple(restoring))

    def _chunk(self, row: Row) -> Chunk:
        sequence, start = row.sequence, row.sequence.computed
        end = start + row.tokens
        blocks = sequence.blocks[: self._cache.blocks_for(end)]
        return Chunk(sequence.slot, sequence.ids[start:end], start, blocks, sample=end == len(sequence.ids))


def _order(sequence: Sequence) -> tuple[int, int]:
    return sequence.order


def _new_slot(sequence: Sequence) -> NewSlot:
    request = sequence.request
    context, output = sequence.ids[: request.prompt_len], sequence.ids[request.prompt_len :]
    return NewSlot(sequence.slot, request.sampling, context, output, request.grammar)
