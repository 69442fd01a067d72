"""Who holds which block of KV memory. Knows neither tokens nor sessions."""

from array import array

NULL_BLOCK = 0


class BlockPool:
    """Counts the holders of each block in preallocated int32 arrays. Block 0 is the null block and never handed out.

    A block is *in use* when a running sequence holds it, *cached* when only parked sequences or the prefix index
    keep it, and *free* otherwise. A *sealed* block is full and listed in the prefix index: it is never written again
    and may have any number of holders. A block that is not sealed has one holder, its writer.
    """

    def __init__(self, num_blocks: int) -> None:
        """Raises ValueError when `num_blocks`, the null block included, leaves no block to use."""
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
        """Running sequences that hold `block`."""
        return self._users[block]

    def holders(self, block: int) -> int:
        """Running and parked sequences that hold `block`."""
        return self._users[block] + self._parked[block]

    def sealed(self, block: int) -> bool:
        return bool(self._sealed[block])

    def allocate(self) -> int:
        """Hands out a free block to a running sequence, its writer. Raises IndexError when none is free."""
        block = self._free.pop()
        self._users[block] = 1
        self._in_use += 1
        return block

    def acquire(self, block: int) -> None:
        """A running sequence shares a sealed block."""
        assert self._sealed[block], f"block {block} is not sealed"
        self._gain_user(block)

    def release(self, block: int) -> bool:
        """A running sequence lets go. Returns whether nobody holds the block now; only a sealed one stays then."""
        self._lose_user(block)
        return self._let_go(block)

    def park(self, block: int) -> None:
        """A running sequence hands its hold to a parked one."""
        self._lose_user(block)
        self._parked[block] += 1

    def adopt(self, block: int) -> None:
        """A parked sequence hands its hold to a running one."""
        self._lose_parked(block)
        self._gain_user(block)

    def unpark(self, block: int) -> bool:
        """A parked sequence lets go. Returns as `release` does."""
        self._lose_parked(block)
        return self._let_go(block)

    def seal(self, block: int) -> None:
        """The block is full and listed in the prefix index."""
        assert self.holders(block) == 1, f"block {block} has no single writer"
        assert not self._sealed[block], f"block {block} is sealed already"
        self._sealed[block] = 1

    def unseal(self, block: int) -> None:
        """The block left the prefix index: it is its only holder's to write, or free when nobody holds it."""
        assert self.holders(block) <= 1, f"block {block} is shared"
        assert self._sealed[block], f"block {block} is not sealed"
        self._sealed[block] = 0
        self._let_go(block)

    def check_integrity(self) -> None:
        """Raises AssertionError unless free + cached + in use = total and no block has two writers."""
        blocks = range(1, len(self._users))
        free = {block for block in blocks if not self.holders(block) and not self._sealed[block]}
        assert sorted(self._free) == sorted(free), "the free list disagrees with the counts"
        assert sum(1 for block in blocks if self._users[block]) == self._in_use, "blocks in use are miscounted"
        assert min(min(self._users), min(self._parked)) >= 0, "a block was let go twice"
        cached = sum(1 for block in blocks if not self._users[block] and block not in free)
        assert self.cached == cached, "free + cached + in use is not the total"
        assert self.holders(NULL_BLOCK) + self._sealed[NULL_BLOCK] == 0, "the null block is held"
        assert all(self._sealed[block] or self.holders(block) <= 1 for block in blocks), "a block has two writers"

    def _gain_user(self, block: int) -> None:
        self._in_use += self._users[block] == 0
        self._users[block] += 1

    def _lose_user(self, block: int) -> None:
        assert self._users[block] > 0, f"block {block} is not in use"
        self._users[block] -= 1
        self._in_use -= self._users[block] == 0

    def _lose_parked(self, block: int) -> None:
        assert self._parked[block] > 0, f"block {block} is not parked"
        self._parked[block] -= 1

    def _let_go(self, block: int) -> bool:
        if self.holders(block):
            return False
        if not self._sealed[block]:
            self._free.append(block)
        return True
