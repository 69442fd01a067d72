"""The KV cache: gives blocks to sequences, shares full ones, keeps what a later request may want again (`Retained`).

    state of a block   held by                                     written by    in the prefix index
    free               nobody                                      nobody        no
    private            one running sequence                        that one      no: it is not full yet
    parked tail        one parked sequence                         nobody        no: it is not full
    sealed             any number of running and parked sequences  nobody        yes
    loose              nobody                                      nobody        yes, until it is evicted

Under each key of the prefix index there is one block: a sequence that fills a second block with the same content takes
the first one instead. When a sequence is cut within a sealed block that others hold too, the tokens of the cut block
are computed again rather than copied: a cut is rare and costs less than one block of prefill.
"""

from array import array
from collections.abc import Iterable

from roost_worker.engine.block_pool import BlockPool
from roost_worker.engine.parked import ParkedSequence, ParkedSequences, common_prefix
from roost_worker.engine.prefix_index import PrefixIndex, extend_keys
from roost_worker.engine.retained import Retained
from roost_worker.engine.retention import RetentionPolicy
from roost_worker.engine.sequence import Sequence


class SequenceCache:
    """Blocks of running sequences, and what is retained of those that run no more."""

    def __init__(self, num_blocks: int, block_tokens: int, policy: RetentionPolicy) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_tokens = block_tokens
        self._index = PrefixIndex()
        self.retained = Retained(self.pool, self._index, block_tokens, policy)

    @property
    def parked(self) -> ParkedSequences:
        """Sessions' parked sequences."""
        return self.retained.parked

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_tokens)

    def admit(self, sequence: Sequence, now: float) -> bool:
        """Gives `sequence` blocks for all its ids, starting with what is cached, at most all but its last token.

        Sets `blocks` and `computed`. Returns False, having changed nothing, when too few blocks can be freed.
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
        sequence.computed = tail_tokens or len(blocks) * self.block_tokens
        if sequence.cached_tokens is None:
            self.retained.came_back(sequence, blocks, now)
        self._claim(sequence, blocks, parked, tail_tokens > 0, now)
        if parked:
            self.retained.unpark(parked.session, now)
        self.retained.make_room(missing, now)
        sequence.blocks.extend(self.pool.allocate() for _ in range(missing))
        return True

    def grow(self, sequence: Sequence, now: float) -> bool:
        """Makes `sequence`'s blocks cover all its ids. Returns False when no block can be freed."""
        if self.blocks_for(len(sequence.ids)) <= len(sequence.blocks):
            return True
        if not self.pool.free and not self.pool.cached:
            return False
        self.retained.make_room(1, now)
        sequence.blocks.append(self.pool.allocate())
        return True

    def advance(self, sequence: Sequence, tokens: int, now: float) -> None:
        """`tokens` more of `sequence` are computed: seals the blocks that are full now."""
        first = sequence.computed // self.block_tokens
        sequence.computed += tokens
        for index in range(first, sequence.computed // self.block_tokens):
            key = self._key(sequence, index)
            known = self._index.get(key)
            if known is None:
                self.pool.seal(sequence.blocks[index])
                self._index.add(key, sequence.blocks[index])
            else:
                self._replace(sequence, index, known, now)

    def release(self, sequence: Sequence, now: float) -> None:
        """Takes all blocks from `sequence`. Full ones stay cached, the last one the first to go."""
        self._let_go(sequence, 0, now)
        sequence.computed = 0

    def park(self, sequence: Sequence, tokens: int, now: float) -> None:
        """Parks the first `tokens` tokens of `sequence`, as far as computed, for its session.

        One-shot work is released, and so is a sequence that ends after a later one of its session. A sequence that
        was preempted parks what is left of it in the cache.
        """
        session = sequence.request.session
        if session is None or self._later_one_parked(session, sequence):
            self.release(sequence, now)
            return
        if not sequence.blocks:
            self._reclaim(sequence, now)
        self._cut(sequence, min(tokens, sequence.computed), now)
        lost = self.retained.unpark(session, now)
        if sequence.computed:
            self._park(session, sequence, now)
        else:
            self.retained.report_dropped(session, lost or sequence.cached_tokens or 0)

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raises AssertionError unless pool, index, parked sequences and `running` agree.

        `running`: all sequences that hold blocks.
        """
        self.pool.check_integrity()
        self._index.check_integrity()
        users: dict[int, int] = {}
        for sequence in running:
            self._check_blocks(sequence.blocks, sequence.computed)
            for block in sequence.blocks:
                users[block] = users.get(block, 0) + 1
        holders = dict(users)
        for parked in self.parked:
            self._check_blocks(parked.blocks, len(parked.ids))
            for block in parked.blocks:
                holders[block] = holders.get(block, 0) + 1
        blocks = range(1, self.pool.total + 1)
        assert all(self.pool.users(block) == users.get(block, 0) for block in blocks), "users are miscounted"
        assert all(self.pool.holders(block) == holders.get(block, 0) for block in blocks), "holders are miscounted"
        assert self._index.blocks() == set(filter(self.pool.sealed, blocks)), "index and seals disagree"
        self.retained.check_integrity(holders)

    def _check_blocks(self, blocks: "array[int]", computed: int) -> None:
        full = computed // self.block_tokens
        assert all(self.pool.sealed(block) for block in blocks[:full]), "a full block is not sealed"
        assert not any(self.pool.sealed(block) for block in blocks[full:]), "a sealed block is to be written"

    def _key(self, sequence: Sequence, index: int) -> bytes:
        extend_keys(sequence.keys, sequence.request.cache_key, sequence.ids, self.block_tokens, index + 1)
        return sequence.keys[index]

    def _last_full(self, sequence: Sequence) -> int:
        """Full blocks that may come from the cache: the last token is always computed, to draw the next from."""
        return (len(sequence.ids) - 1) // self.block_tokens

    def _match(self, sequence: Sequence) -> "array[int]":
        full = self._last_full(sequence)
        extend_keys(sequence.keys, sequence.request.cache_key, sequence.ids, self.block_tokens, full)
        return self._index.match(sequence.keys[:full])

    def _own_parked(self, sequence: Sequence) -> ParkedSequence | None:
        parked = self.parked.get(sequence.request.session) if sequence.request.session else None
        return parked if parked and parked.cache_key == sequence.request.cache_key else None

    def _tail_tokens(self, sequence: Sequence, parked: ParkedSequence, full: int) -> int:
        """Tokens cached when the parked block after the `full` matched ones becomes the tail; 0 when it cannot.

        A cut within it needs it to be this session's alone.
        """
        tokens = min(common_prefix(parked.ids, sequence.ids), len(sequence.ids) - 1)
        if tokens // self.block_tokens != full or tokens % self.block_tokens == 0:
            return 0
        return tokens if self.pool.holders(parked.blocks[full]) == 1 else 0

    def _claim(
        self, sequence: Sequence, blocks: "array[int]", parked: ParkedSequence | None, tail: bool, now: float
    ) -> None:
        """Makes `sequence` hold `blocks`, all matched but the last one if it is the `tail` of `parked`."""
        self.retained.share(blocks[:-1] if tail else blocks, now)
        if tail and parked:
            parked.blocks.remove(blocks[-1])
            self.pool.adopt(blocks[-1])
            self.retained.make_private(blocks[-1])
        sequence.blocks = blocks

    def _replace(self, sequence: Sequence, index: int, block: int, now: float) -> None:
        """`sequence` takes a sealed block with the content of its own block `index`."""
        self.retained.share((block,), now)
        self.pool.release(sequence.blocks[index])
        sequence.blocks[index] = block

    def _reclaim(self, sequence: Sequence, now: float) -> None:
        """A preempted sequence takes back those of its blocks that are still cached."""
        sequence.blocks = self._match(sequence)
        sequence.computed = len(sequence.blocks) * self.block_tokens
        self.retained.share(sequence.blocks, now)

    def _cut(self, sequence: Sequence, tokens: int, now: float) -> None:
        """Keeps the KV of the first `tokens` tokens, or of those in full blocks if the last block is shared."""
        kept = self.blocks_for(tokens)
        shared_tail = tokens % self.block_tokens and self.pool.holders(sequence.blocks[kept - 1]) > 1
        if shared_tail:
            kept -= 1
        self._let_go(sequence, kept, now)
        sequence.computed = kept * self.block_tokens if shared_tail else tokens
        if tokens % self.block_tokens and not shared_tail:
            self.retained.make_private(sequence.blocks[-1])

    def _let_go(self, sequence: Sequence, kept: int, now: float) -> None:
        """Takes all blocks but the first `kept` from `sequence`."""
        blocks = sequence.blocks[kept:]
        del sequence.blocks[kept:]
        self.retained.keep_loose([block for block in blocks if self.pool.release(block)], now)

    def _later_one_parked(self, session: str, sequence: Sequence) -> bool:
        parked = self.parked.get(session)
        return parked is not None and parked.arrival > sequence.arrival

    def _park(self, session: str, sequence: Sequence, now: float) -> None:
        ids = sequence.ids[: sequence.computed]
        key = sequence.request.cache_key
        self.retained.park(ParkedSequence(session, key, ids, sequence.blocks, sequence.arrival, now), now)
        sequence.blocks, sequence.computed = array("i"), 0
