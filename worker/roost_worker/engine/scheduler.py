"""Chooses what runs next: sequences that decode first, then chunks of prefill (`prefill.py`), in one mixed batch."""

from array import array
from bisect import insort
from dataclasses import dataclass, replace

from roost_worker.config import EngineConfig
from roost_worker.engine.cache import SequenceCache
from roost_worker.engine.drafting import Drafting
from roost_worker.engine.plan import DRAWN, BatchPlan, Chunk, NewSlot
from roost_worker.engine.prefill import ChunkSize, light_share, shares
from roost_worker.engine.sequence import NO_SLOT, Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence's part of a batch."""

    sequence: Sequence
    tokens: int
    decode: bool
    draft: tuple[int, ...] = ()
    """Guesses of what follows the sequence's ids, computed with its last ones."""

    @property
    def computed(self) -> int:
        """Tokens that the batch computes for it, whether they are kept or not."""
        return self.tokens + len(self.draft)


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """A plan, and the sequences behind its chunks and its restores, in the same order."""

    plan: BatchPlan
    rows: tuple[Row, ...]
    restoring: tuple[Sequence, ...] = ()

    @property
    def prefilled_tokens(self) -> int:
        return sum(row.tokens for row in self.rows if not row.decode)


class Scheduler:
    """Waiting and running sequences, both ordered by priority, then first come, first served.

    A sequence is admitted when the batch has tokens left for it, there is a free slot, and room for the blocks of its
    whole context. None overtakes the first that waits for a slot or for room. While the first waits for its turn in the
    batch, light prompts of its class overtake it, and they are computed beside heavy ones: with T tokens of light
    prompts, each of them has its first token after T / (half a chunk) + 1 batches, rounded up, whatever the heavy
    ones have left. When decoding needs a block and none can be evicted, the last running sequence is preempted: its
    full blocks stay cached, its ids are kept, and it waits in its old place. So is a background prompt when any other
    sequence needs its slot or its blocks to be admitted. Tokens that grammars force may make a chunk smaller: they get
    up to half of what a batch has beside one token of each decoding sequence. Guesses (`Drafting`) get what is left of
    a batch while no other sequence waits or is computed.
    """

    def __init__(self, cache: SequenceCache, config: EngineConfig, context_tokens: int) -> None:
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.preemptions = 0
        self._cache = cache
        self._context_tokens = context_tokens
        self._max_batch_tokens = config.max_batch_tokens
        self._drafting = Drafting(config.max_draft_tokens, context_tokens)
        self._chunk_size = ChunkSize(config.max_batch_tokens, config.step_goal_seconds)
        self._free_slots = list(range(config.max_running - 1, -1, -1))
        self._freed: list[int] = []

    def add(self, sequence: Sequence, now: float) -> None:
        """Queue `sequence` to run."""
        sequence.expected_tokens = len(sequence.ids) - self._cache.cached_tokens(sequence)
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
        tokens = self._max_batch_tokens - sum(row.tokens for row in rows)
        if rows:
            self._drafting.begin(len(rows))
            tokens = min(tokens, self._chunk_size.tokens)
        prompts: list[Sequence] = []
        restoring: list[Sequence] = []
        for sequence in self.running:
            if not sequence.decoding:
                self._add_prompt(sequence, prompts, restoring)
        new = self._admit_prompts(prompts, restoring, tokens, now)
        left = [(sequence.request.priority, sequence.missing_tokens) for sequence in prompts]
        given = shares(left, tokens, self._max_batch_tokens)
        rows += [Row(sequence, part, decode=False) for sequence, part in zip(prompts, given, strict=True) if part]
        if self._drafting.guesses and not (prompts or restoring or self.waiting):
            rows = self._with_drafts(rows, now)
        return self._batch(rows, new, restoring) if rows or restoring else None

    def schedule_ahead(self, batch: ScheduledBatch, now: float) -> ScheduledBatch | None:
        """Return the decode step after `batch`, which is under way, or None if it is not certain what it will be.

        All but its tokens is certain when nothing that waits has a slot to take, no sequence guesses, and there are
        enough free blocks. Then the step has the sequences of `batch`, without those that `batch` ends by their length.
        One that ends with the token drawn now is computed for nothing: its KV lies behind what is kept, as that of a
        wrong guess does.
        """
        rows = [row for row in batch.rows if row.sequence.slot != NO_SLOT]
        if self.waiting and self._free_slots:
            return None
        if len(rows) < len(self.running) or not all(map(self._draws_once, rows)):
            return None
        going = [row.sequence for row in rows if row.sequence.tokens_left(self._context_tokens) > 1]
        if not going or sum(self._cache.missing_blocks(sequence, 1) for sequence in going) > self._cache.pool.free:
            return None
        for sequence in going:
            self._cache.grow(sequence, now, 1)
        plan = BatchPlan(tuple(map(self._chunk_ahead, going)))
        return ScheduledBatch(plan, tuple(Row(sequence, 1, decode=True) for sequence in going))

    def observe(self, batch: ScheduledBatch, seconds: float) -> None:
        """Learn from how long a batch took. `learn` is about this batch then: one that was begun ahead has other rows
        than the batch that was scheduled last."""
        prefilled, decoding = batch.prefilled_tokens, sum(row.decode for row in batch.rows)
        if decoding:
            self._drafting.begin(decoding)
        if prefilled > 0 and decoding:
            self._chunk_size.observe(prefilled, seconds)

    def learn(self, row: Row, right: int) -> None:
        """Learn that `right` guesses about a row's sequence, in the batch observed last, were drawn, too."""
        if row.decode:
            self._drafting.learn(row.sequence, len(row.draft), right)

    def _draws_once(self, row: Row) -> bool:
        """Return whether the row computes just the last token of a decoding sequence, so that exactly one is drawn."""
        may_guess = self._drafting.guesses and row.sequence.request.sampling.prompt_lookup
        return row.decode and row.computed == row.sequence.missing_tokens == 1 and not may_guess

    def _decode_rows(self, now: float) -> list[Row]:
        """Return a row for each decoding sequence: its drawn token and, up to half of what is left of the batch, those
        that its grammar forced after it."""
        decoding = [sequence for sequence in self.running if sequence.decoding]
        room = (self._max_batch_tokens - len(decoding)) // 2
        rows: list[Row] = []
        for sequence in decoding:
            if self._grow(sequence, now):
                tokens = min(sequence.missing_tokens, 1 + room)
                room -= tokens - 1
                rows.append(Row(sequence, tokens, decode=True))
        return rows

    def _with_drafts(self, rows: list[Row], now: float) -> list[Row]:
        """Add guesses to the rows, as far as the batch has room and blocks can be freed."""
        room = self._max_batch_tokens - sum(row.tokens for row in rows)
        drafted: list[Row] = []
        for row in rows:
            draft = self._draft(row, room, now)
            room -= len(draft)
            drafted.append(replace(row, draft=draft) if draft else row)
        return drafted

    def _draft(self, row: Row, room: int, now: float) -> tuple[int, ...]:
        if row.tokens < row.sequence.missing_tokens:
            return ()
        draft = self._drafting.draft(row.sequence, min(room, self._cache.room(row.sequence)))
        has_room = self._cache.grow(row.sequence, now, len(draft))
        assert has_room, "a guess has no block"
        return draft

    def _grow(self, sequence: Sequence, now: float) -> bool:
        """Make room for all tokens. Return False when `sequence` was preempted, now or by an earlier row."""
        while sequence.slot != NO_SLOT and not self._cache.grow(sequence, now):
            self._preempt(self.running[-1], now)
        return sequence.slot != NO_SLOT

    def _preempt(self, sequence: Sequence, now: float) -> None:
        self.preemptions += 1
        self.remove(sequence, now)
        self._cache.release(sequence, now)
        self.add(sequence, now)

    def _add_prompt(self, sequence: Sequence, prompts: list[Sequence], restoring: list[Sequence]) -> None:
        """Add a sequence that does not decode yet to those that take tokens of prefill, or to those that restore."""
        if self._cache.plan_restores(sequence):
            restoring.append(sequence)
        else:
            insort(prompts, sequence, key=_order)

    def _admit_prompts(
        self, prompts: list[Sequence], restoring: list[Sequence], tokens: int, now: float
    ) -> list[Sequence]:
        """Admit sequences into `prompts`, which stays in order, and `restoring`. Return those that were admitted."""
        new: list[Sequence] = []
        while (sequence := self._next_prompt(prompts, tokens)) and self._make_way(sequence, prompts, now):
            self._add_prompt(sequence, prompts, restoring)
            new.append(sequence)
        return new

    def _next_prompt(self, prompts: list[Sequence], tokens: int) -> Sequence | None:
        """Return the waiting sequence to admit next, or None while `prompts` take all `tokens` of prefill."""
        if not self.waiting or not tokens:
            return None
        first = self.waiting[0]
        if sum(sequence.missing_tokens for sequence in prompts) < tokens:
            return first
        if first.request.priority < prompts[0].request.priority:
            return first
        return self._next_light(prompts, tokens)

    def _next_light(self, prompts: list[Sequence], tokens: int) -> Sequence | None:
        """Return the first waiting light prompt of the class that runs, or None while others take the light share."""
        light_tokens = [sequence.missing_tokens for sequence in prompts if self._is_light(sequence.missing_tokens)]
        if sum(light_tokens) >= light_share(tokens):
            return None
        priority = prompts[0].request.priority
        light = (sequence for sequence in self.waiting if self._is_light(sequence.expected_tokens))
        return next((sequence for sequence in light if sequence.request.priority == priority), None)

    def _is_light(self, tokens: int) -> bool:
        return tokens <= self._max_batch_tokens

    def _make_way(self, sequence: Sequence, prompts: list[Sequence], now: float) -> bool:
        """Admit `sequence`, if need be in place of background prompts, which leave `prompts`."""
        while not self._admit(sequence, now):
            gives_way = bool(prompts) and prompts[-1].request.is_background and not sequence.request.is_background
            if not gives_way:
                return False
            self._preempt(prompts.pop(), now)
        return True

    def _admit(self, sequence: Sequence, now: float) -> bool:
        """Move a waiting sequence to the running ones, if it fits."""
        if not self._free_slots or not self._cache.admit(sequence, now):
            return False
        self.waiting.remove(sequence)
        self._set_wanted(sequence, False, now)
        if sequence.cached_tokens is None:
            sequence.queue_seconds = now - sequence.submitted
        if not sequence.prefilled:
            sequence.cached_tokens = sequence.computed
        sequence.slot = self._free_slots.pop()
        insort(self.running, sequence, key=_order)
        return True

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
        blocks = sequence.blocks[: self._cache.blocks_for(end + len(row.draft))]
        token_ids = sequence.ids[start:end] + array("i", row.draft)
        sample = end == len(sequence.ids)
        return Chunk(sequence.slot, token_ids, start, blocks, sample, drafts=len(row.draft))

    def _chunk_ahead(self, sequence: Sequence) -> Chunk:
        """Return the chunk of the token that the batch under way draws."""
        start = len(sequence.ids)
        blocks = sequence.blocks[: self._cache.blocks_for(start + 1)]
        return Chunk(sequence.slot, array("i", [DRAWN]), start, blocks, sample=True)


def _order(sequence: Sequence) -> tuple[int, int]:
    return sequence.order


def _new_slot(sequence: Sequence) -> NewSlot:
    request = sequence.request
    context, output = sequence.ids[: request.prompt_len], sequence.ids[request.prompt_len :]
    return NewSlot(sequence.slot, request.sampling, context, output, request.grammar)
