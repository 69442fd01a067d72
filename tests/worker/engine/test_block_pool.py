"""The block pool against a model of its references."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from roost_worker.engine.block_pool import BlockPool

BLOCKS = 6


class BlockPoolMachine(RuleBasedStateMachine):
    """Random references; `users` and `parked` count what the pool should."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS + 1)
        self.users: dict[int, int] = {}
        self.parked: dict[int, int] = {}
        self.sealed: set[int] = set()

    def pick(self, data: st.DataObject, blocks: set[int]) -> int | None:
        return data.draw(st.sampled_from(sorted(blocks))) if blocks else None

    def references(self, block: int) -> int:
        return self.users.get(block, 0) + self.parked.get(block, 0)

    @precondition(lambda self: self.pool.free)
    @rule()
    def allocate(self) -> None:
        block = self.pool.allocate()
        assert block not in self.sealed
        assert not self.references(block)
        self.users[block] = 1

    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        blocks = {block for block in range(1, BLOCKS + 1) if self.references(block) == 1} - self.sealed
        if (block := self.pick(data, blocks)) is not None:
            self.pool.seal(block)
            self.sealed.add(block)

    @rule(data=st.data())
    def unseal(self, data: st.DataObject) -> None:
        if (block := self.pick(data, {block for block in self.sealed if self.references(block) <= 1})) is not None:
            self.pool.unseal(block)
            self.sealed.discard(block)

    @rule(data=st.data())
    def acquire(self, data: st.DataObject) -> None:
        if (block := self.pick(data, self.sealed)) is not None:
            self.pool.acquire(block)
            self.users[block] = self.users.get(block, 0) + 1

    @rule(data=st.data(), park=st.booleans())
    def drop_a_user(self, data: st.DataObject, park: bool) -> None:
        if (block := self.pick(data, {block for block, count in self.users.items() if count})) is None:
            return
        self.users[block] -= 1
        if park:
            self.pool.park(block)
            self.parked[block] = self.parked.get(block, 0) + 1
        else:
            assert self.pool.release(block) == (self.references(block) == 0)

    @rule(data=st.data(), adopt=st.booleans())
    def drop_a_parked_reference(self, data: st.DataObject, adopt: bool) -> None:
        if (block := self.pick(data, {block for block, count in self.parked.items() if count})) is None:
            return
        self.parked[block] -= 1
        if adopt:
            self.pool.adopt(block)
            self.users[block] = self.users.get(block, 0) + 1
        else:
            assert self.pool.unpark(block) == (self.references(block) == 0)

    @invariant()
    def counts_agree(self) -> None:
        self.pool.check_integrity()
        in_use = sum(1 for count in self.users.values() if count)
        kept = {block for block in range(1, BLOCKS + 1) if self.references(block)} | self.sealed
        assert (self.pool.in_use, self.pool.cached) == (in_use, len(kept) - in_use)
        assert self.pool.free == BLOCKS - len(kept)


TestBlockPool = BlockPoolMachine.TestCase
TestBlockPool.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_no_block_is_handed_out_twice_and_never_the_null_block() -> None:
    pool = BlockPool(4)
    assert sorted(pool.allocate() for _ in range(3)) == [1, 2, 3]
    with pytest.raises(IndexError):
        pool.allocate()


def test_integrity_check_sees_a_second_writer() -> None:
    pool = BlockPool(4)
    block = pool.allocate()
    pool.seal(block)
    pool.acquire(block)
    pool._sealed[block] = 0
    with pytest.raises(AssertionError, match="two writers"):
        pool.check_integrity()


def test_integrity_check_sees_a_lost_block() -> None:
    pool = BlockPool(4)
    pool._free.pop()
    with pytest.raises(AssertionError, match="free list"):
        pool.check_integrity()


def test_a_shared_block_cannot_be_written_again() -> None:
    pool = BlockPool(4)
    block = pool.allocate()
    pool.seal(block)
    pool.acquire(block)
    with pytest.raises(AssertionError, match="shared"):
        pool.unseal(block)


def test_memory_for_no_block_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"kvCache\.memory"):
        BlockPool(1)
