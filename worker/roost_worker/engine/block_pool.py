"""Reference counts of the blocks of KV memory. Knows neither tokens nor sessions."""

from array import array

NULL_BLOCK = 0


class BlockPool:
    """Counts references to each block, in preallocated int32 arrays. Block 0 is the null block, never handed out.

    A block is *in use* when a running sequence refers to it, *cached* when only parked sequences or the prefix index
    do, and *free* otherwise. A *sealed* block is full and in the prefix index: it is never written again and may be
    shared. A block that is not sealed has one reference, its writer's.
    """

    def __init__(self, num_blocks: int) -> None:
        """Raise ValueError when `num_blocks`, which includes the null block, leaves no block to use."""
        if num_blocks < 2:
            raise ValueError(f"KV memory holds {num_blocks} blocks; raise kvCache.memory so that it holds at least 2")
        self._users = array("i", bytes(4 * num_blocks))
        self._parked = array("i", bytes(4 * num_blocks))
        self._sealed = bytearray(num_blocks)
        self._free = array("i", range(num_blocks - 1, NULL_BLOCK, -1))
        self._in_use = 0

    @property
    def total(self) -> int:
        """Blocks that can be handed out."""
        return len(self._users) - 1

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def in_use(self) -> int:
        return self._in_use

    @property
    def cached(self) -> int:
        return self.total - self._in_use - len(self._free)

    def users(self, block: int) -> int:
        """Return the number of running sequences that refer to `block`."""
        return self._users[block]

    def references(self, block: int) -> int:
        """Return the number of running and parked sequences that refer to `block`."""
        return self._users[block] + self._parked[block]

    def sealed(self, block: int) -> bool:
        return bool(self._sealed[block])

    def allocate(self) -> int:
        """Hand a free block to a running sequence, its writer. Raise IndexError when none is free."""
        block = self._free.pop()
        self._users[block] = 1
        self._in_use += 1
        return block

    def acquire(self, block: int) -> None:
        """Add a running sequence's reference to a sealed block."""
        assert self._sealed[block], f"block {block} is not sealed"
        self._add_user(block)

    def release(self, block: int) -> bool:
        """Drop a running sequence's reference; return whether it was the last. An unsealed block is free then."""
        self._drop_user(block)
        return self._free_if_unused(block)

    def park(self, block: int) -> None:
        """Turn a running sequence's reference into a parked one's."""
        self._drop_user(block)
        self._parked[block] += 1

    def adopt(self, block: int) -> None:
        """Turn a parked sequence's reference into a running one's."""
        self._drop_parked(block)
        self._add_user(block)

    def unpark(self, block: int) -> bool:
        """Drop a parked sequence's reference; return as `release` does."""
        self._drop_parked(block)
        return self._free_if_unused(block)

    def seal(self, block: int) -> None:
        """Mark a block as full and listed in the prefix index."""
        assert self.references(block) == 1, f"block {block} has no single writer"
        assert not self._sealed[block], f"block {block} is sealed already"
        self._sealed[block] = 1

    def unseal(self, block: int) -> None:
        """Mark a block as removed from the prefix index: its only user may write it; without one it is free."""
        assert self.references(block) <= 1, f"block {block} is shared"
        assert self._sealed[block], f"block {block} is not sealed"
        self._sealed[block] = 0
        self._free_if_unused(block)

    def check_integrity(self) -> None:
        """Raise AssertionError unless free + cached + in use = total and no block has two writers."""
        blocks = range(1, len(self._users))
        free = {block for block in blocks if not self.references(block) and not self._sealed[block]}
        assert sorted(self._free) == sorted(free), "the free list disagrees with the counts"
        assert sum(1 for block in blocks if self._users[block]) == self._in_use, "blocks in use are miscounted"
        assert min(min(self._users), min(self._parked)) >= 0, "a block was released twice"
        cached = sum(1 for block in blocks if not self._users[block] and block not in free)
        assert self.cached == cached, "free + cached + in use is not the total"
        assert self.references(NULL_BLOCK) + self._sealed[NULL_BLOCK] == 0, "the null block is in use"
        assert all(self._sealed[block] or self.references(block) <= 1 for block in blocks), "a block has two writers"

    def _add_user(self, block: int) -> None:
        self._in_use += self._users[block] == 0
        self._users[block] += 1

    def _drop_user(self, block: int) -> None:
        assert self._users[block] > 0, f"block {block} is not in use"
        self._users[block] -= 1
        self._in_use -= self._users[block] == 0

    def _drop_parked(self, block: int) -> None:
        assert self._parked[block] > 0, f"block {block} is not parked"
        self._parked[block] -= 1

    def _free_if_unused(self, block: int) -> bool:
        if self.references(block):
            return False
        if not self._sealed[block]:
            self._free.append(block)
        return True
