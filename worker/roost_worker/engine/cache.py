"""The KV cache: gives blocks to sequences, shares full ones, keeps what a later request may want again (`Retained`).

    state of a block   referred to by                    written by    in the prefix index    becomes
    free               nobody                            nobody        no                     private
    private            one running sequence              its sequence  no: not full yet       sealed, parked, free
    parked (tail)      one parked sequence               nobody        no: not full           private, free
    sealed             running and parked sequences      nobody        yes                    loose, private (cut), free
    loose              nobody                            nobody        yes                    sealed, free

Each key of the prefix index has one block: a sequence that fills a second block with the same content takes the first
one instead. When a sequence is cut within a sealed block that others share, the tokens of the cut block are computed
again rather than copied: a cut is rare and costs less than one block of prefill.
"""

from array import array
from collections.abc import Iterable

from roost_worker.engine.block_pool import BlockPool
from roost_worker.engine.host_tier import HostTier
from roost_worker.engine.parked import ParkedSequence, ParkedSequences, common_prefix
from roost_worker.engine.prefix_index import PrefixIndex, extend_keys
from roost_worker.engine.retained import Retained
from roost_worker.engine.retention import Candidate, RetentionPolicy
from roost_worker.engine.sequence import Sequence


class SequenceCache:
    """Blocks of running sequences, and what is retained of sequences that have stopped running."""

    def __init__(self, num_blocks: int, block_tokens: int, policy: RetentionPolicy, *, host_slots: int = 0) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_tokens = block_tokens
        self._index = PrefixIndex()
        self.host = HostTier(host_slots, block_tokens, self._index)
        self.retained = Retained(self.pool, self._index, block_tokens, policy, self.host)

    @property
    def parked(self) -> ParkedSequences:
        """The sessions' parked sequences."""
        return self.retained.parked

    def blocks_for(self, tokens: int) -> int:
        """Return how many blocks `tokens` tokens take."""
        return -(-tokens // self.block_tokens)

    def cached_tokens(self, sequence: Sequence) -> int:
        """Return how many tokens of `sequence` need not be computed, as the cache is now: those in full blocks that are
        on the device, and those that are then restored from host memory."""
        on_device = len(self._match(sequence))
        restored = self.host.restorable(sequence.keys[on_device : self._last_full(sequence)])
        return (on_device + restored) * self.block_tokens

    def can_spare_room(self, sequence: Sequence, now: float) -> bool:
        """Return whether `sequence`, whose session pauses, could be admitted without loss: in blocks that are free, or
        of what is worth less than the session's KV."""
        assert sequence.request.pause is not None, "the session does not pause"
        blocks, parked = self._match(sequence), self._own_parked(sequence)
        kept = {*blocks, *(parked.blocks if parked else ())}
        missing = self.blocks_for(len(sequence.ids)) - len(blocks)
        pause, began = sequence.request.pause, sequence.pause_began
        candidate = Candidate(
            sequence.request.session,
            began,
            held_until=began + pause.expect_seconds,
            tokens=len(sequence.ids),
            tool=pause.tool,
            expect_seconds=pause.expect_seconds,
            role=sequence.request.role,
        )
        return self.retained.can_spare(missing, candidate, kept, now)

    def admit(self, sequence: Sequence, now: float) -> bool:
        """Give `sequence` blocks for all its ids, reusing what is cached of all but its last token.

        Set `blocks` and `computed`. Return False, having changed nothing, when too few blocks can be freed.
        """
        blocks = self._match(sequence)
        parked = self._own_parked(sequence)
        tail_tokens = self._tail_tokens(sequence, parked, len(blocks)) if parked else 0
        if parked and tail_tokens:
            blocks.append(parked.blocks[len(blocks)])
        missing = self.blocks_for(len(sequence.ids)) - len(blocks)
        unused = sum(1 for block in blocks if not self.pool.users(block))
        if missing > self.pool.free + self.pool.cached - unused:
            return False
        self.host.slots.touch(sequence.keys[len(blocks) : self._last_full(sequence)])
        sequence.computed = tail_tokens or len(blocks) * self.block_tokens
        if sequence.cached_tokens is None and not sequence.request.is_background:
            self.retained.came_back(sequence, blocks, now)
        self._claim(sequence, blocks, parked, tail_tokens > 0, now)
        if parked:
            self.retained.unpark(parked.session, now)
        self.retained.make_room(missing, sequence.request, now)
        sequence.blocks.extend(self.pool.allocate() for _ in range(missing))
        return True

    def room(self, sequence: Sequence) -> int:
        """Return how many tokens can follow the ids of `sequence` in its blocks and those that can be given to it."""
        blocks = len(sequence.blocks) + self.pool.free + self.pool.cached
        return blocks * self.block_tokens - len(sequence.ids)

    def missing_blocks(self, sequence: Sequence, guesses: int = 0) -> int:
        """Return how many blocks `sequence` lacks for its ids and `guesses` more."""
        return max(0, self.blocks_for(len(sequence.ids) + guesses) - len(sequence.blocks))

    def grow(self, sequence: Sequence, now: float, guesses: int = 0) -> bool:
        """Extend `sequence`'s blocks to cover its ids and `guesses` more. Return False when too few can be freed."""
        missing = self.missing_blocks(sequence, guesses)
        if not missing:
            return True
        if missing > self.pool.free + self.pool.cached:
            return False
        self.retained.make_room(missing, sequence.request, now)
        sequence.blocks.extend(self.pool.allocate() for _ in range(missing))
        return True

    def advance(self, sequence: Sequence, tokens: int, now: float) -> None:
        """Record that `tokens` more tokens of `sequence` are computed, and seal the blocks that are full now."""
        first = sequence.computed // self.block_tokens
        sequence.computed += tokens
        for index in range(first, sequence.computed // self.block_tokens):
            key = self._key(sequence, index)
            equal_block = self._index.get(key)
            if equal_block is None:
                self.pool.seal(sequence.blocks[index])
                self._index.add(key, sequence.blocks[index])
            else:
                self._replace(sequence, index, equal_block, now)

    def plan_restores(self, sequence: Sequence) -> bool:
        """Plan to copy the next blocks of `sequence`, which was admitted, from host memory.

        Return whether its next block comes from there: then nothing of it is computed before `take_restored`.
        """
        first, within_block = divmod(sequence.computed, self.block_tokens)
        last = self._last_full(sequence)
        if within_block or first >= last or not self.host.restores(sequence.keys[first]):
            return False
        sequence.restoring = self.host.plan_restores(sequence.keys[first:last], sequence.blocks[first:last])
        return True

    def take_restored(self, sequence: Sequence, intact: tuple[bool, ...], now: float) -> None:
        """Record that the blocks planned last are copied; of a corrupted one and those behind it nothing is kept."""
        first = sequence.computed // self.block_tokens
        restored = self.host.note_restored(sequence.keys[first : first + sequence.restoring], intact)
        sequence.restoring = 0
        self.advance(sequence, restored * self.block_tokens, now)
        if not sequence.prefilled:
            sequence.cached_tokens = sequence.computed

    def release(self, sequence: Sequence, now: float) -> None:
        """Take all blocks from `sequence`. Full ones stay cached; of these the last is evicted first."""
        self._release_after(sequence, 0, now)
        sequence.computed = 0

    def park(self, sequence: Sequence, tokens: int, now: float) -> None:
        """Park the first `tokens` tokens of `sequence`, as far as they are computed, for its session.

        One-shot work is released instead, and so is a sequence of whose session a later request is parked already.
        A sequence that was preempted parks what is left of it in the cache.
        """
        session = sequence.request.session
        if session is None or self._later_request_parked(session, sequence):
            self.release(sequence, now)
            return
        if not sequence.blocks:
            self._reclaim(sequence, now)
        self._cut(sequence, min(tokens, sequence.computed), now)
        self._note_chain(session, sequence, tokens)
        lost = self.retained.unpark(session, now)
        if sequence.computed:
            self._park(session, sequence, now)
        else:
            self.retained.report_dropped(session, lost or sequence.cached_tokens or 0)

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raise AssertionError unless pool, index, parked sequences and `running` agree.

        `running` are all sequences that have blocks.
        """
        self.pool.check_integrity()
        self._index.check_integrity()
        users: dict[int, int] = {}
        for sequence in running:
            self._check_blocks(sequence.blocks, sequence.computed)
            for block in sequence.blocks:
                users[block] = users.get(block, 0) + 1
        references = dict(users)
        for parked in self.parked:
            self._check_blocks(parked.blocks, len(parked.ids))
            for block in parked.blocks:
                references[block] = references.get(block, 0) + 1
        blocks = range(1, self.pool.total + 1)
        assert all(self.pool.users(block) == users.get(block, 0) for block in blocks), "users are miscounted"
        assert all(self.pool.references(block) == references.get(block, 0) for block in blocks), "references miscounted"
        assert self._index.blocks() == set(filter(self.pool.sealed, blocks)), "index and seals disagree"
        self.retained.check_integrity(references)

    def _check_blocks(self, blocks: "array[int]", computed: int) -> None:
        full = computed // self.block_tokens
        assert all(self.pool.sealed(block) for block in blocks[:full]), "a full block is not sealed"
        assert not any(self.pool.sealed(block) for block in blocks[full:]), "a sealed block would be written"

    def _key(self, sequence: Sequence, index: int) -> bytes:
        extend_keys(sequence.keys, sequence.request.cache_key, sequence.ids, self.block_tokens, index + 1)
        return sequence.keys[index]

    def _last_full(self, sequence: Sequence) -> int:
        """Return how many full blocks may come from the cache: the last token is always computed, for its logits."""
        return (len(sequence.ids) - 1) // self.block_tokens

    def _match(self, sequence: Sequence) -> "array[int]":
        full = self._last_full(sequence)
        extend_keys(sequence.keys, sequence.request.cache_key, sequence.ids, self.block_tokens, full)
        return self._index.match(sequence.keys[:full])

    def _own_parked(self, sequence: Sequence) -> ParkedSequence | None:
        parked = self.parked.get(sequence.request.session) if sequence.request.session else None
        return parked if parked and parked.cache_key == sequence.request.cache_key else None

    def _tail_tokens(self, sequence: Sequence, parked: ParkedSequence, full: int) -> int:
        """Return the tokens cached if the parked block after the `full` matched ones becomes the tail, 0 if it cannot.

        It cannot be cut unless it is this session's alone.
        """
        tokens = min(common_prefix(parked.ids, sequence.ids), len(sequence.ids) - 1)
        if tokens // self.block_tokens != full or tokens % self.block_tokens == 0:
            return 0
        return tokens if self.pool.references(parked.blocks[full]) == 1 else 0

    def _claim(
        self, sequence: Sequence, blocks: "array[int]", parked: ParkedSequence | None, tail: bool, now: float
    ) -> None:
        """Give `blocks` to `sequence`: matched ones, and last, if `tail` is true, the tail of `parked`."""
        self.retained.share(blocks[:-1] if tail else blocks, now)
        if tail and parked:
            parked.blocks.remove(blocks[-1])
            self.pool.adopt(blocks[-1])
            self.retained.make_private(blocks[-1])
        sequence.blocks = blocks

    def _replace(self, sequence: Sequence, index: int, block: int, now: float) -> None:
        """Replace block `index` of `sequence` by a sealed `block` with the same content."""
        self.retained.share((block,), now)
        self.pool.release(sequence.blocks[index])
        sequence.blocks[index] = block

    def _reclaim(self, sequence: Sequence, now: float) -> None:
        """Give a preempted sequence back those of its blocks that are still cached."""
        sequence.blocks = self._match(sequence)
        sequence.computed = len(sequence.blocks) * self.block_tokens
        self.retained.share(sequence.blocks, now)

    def _cut(self, sequence: Sequence, tokens: int, now: float) -> None:
        """Keep the KV of the first `tokens` tokens, or of those in full blocks if the last block is shared."""
        kept = self.blocks_for(tokens)
        shared_tail = tokens % self.block_tokens and self.pool.references(sequence.blocks[kept - 1]) > 1
        if shared_tail:
            kept -= 1
        self._release_after(sequence, kept, now)
        sequence.computed = kept * self.block_tokens if shared_tail else tokens
        if tokens % self.block_tokens and not shared_tail:
            self.retained.make_private(sequence.blocks[-1])

    def _release_after(self, sequence: Sequence, kept: int, now: float) -> None:
        """Take all blocks but the first `kept` from `sequence`."""
        blocks = sequence.blocks[kept:]
        del sequence.blocks[kept:]
        self.retained.keep_loose([block for block in blocks if self.pool.release(block)], now)

    def _later_request_parked(self, session: str, sequence: Sequence) -> bool:
        parked = self.parked.get(session)
        return parked is not None and parked.arrival > sequence.arrival

    def _note_chain(self, session: str, sequence: Sequence, tokens: int) -> None:
        """Note which full blocks of the first `tokens` tokens are cached: on the device, and then in host memory."""
        full, on_device = tokens // self.block_tokens, sequence.computed // self.block_tokens
        extend_keys(sequence.keys, sequence.request.cache_key, sequence.ids, self.block_tokens, full)
        in_host_memory = self.host.slots.count(sequence.keys[on_device:full])
        self.host.set_chain(session, sequence.keys[: on_device + in_host_memory])

    def _park(self, session: str, sequence: Sequence, now: float) -> None:
        ids = sequence.ids[: sequence.computed]
        key, role, pause = sequence.request.cache_key, sequence.request.role, sequence.request.pause
        last_used = sequence.pause_began if pause else now
        parked = ParkedSequence(session, key, ids, sequence.blocks, sequence.arrival, last_used, role=role)
        self.retained.park(parked, now)
        if pause:
            self.retained.hold(session, last_used + pause.expect_seconds, pause.tool, pause.expect_seconds, now)
        sequence.blocks, sequence.computed = array("i"), 0
