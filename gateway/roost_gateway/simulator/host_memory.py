"""Copies of a worker's KV blocks in host memory: of paused sessions and of prefixes, each a named row of blocks. Pure.

Which copies stay and whether copying pays is decided as in the engine (`host_slots`, `host_tier`). Simpler than there:
blocks are numbered and not found by their content, whether copying pays is known from the costs and never tried again,
and what is displaced while it is to be restored is restored all the same.
"""

from roost_worker.engine.host_slots import HostSlots
from roost_worker.engine.host_tier import copying_pays


class HostMemory:
    """Rows of blocks, of which some have a copy. Without slots, or where computing is faster, it keeps nothing."""

    def __init__(self, slots: int, block_tokens: int, copied_blocks: float, prefilled_tokens: float) -> None:
        """`copied_blocks` and `prefilled_tokens` are what a worker does per second."""
        pays = copying_pays(copied_blocks, block_tokens, prefilled_tokens)
        self._slots = HostSlots(slots if pays else 0)
        self._ends: dict[str, int] = {}
        """Of each row: no block from here on has a copy."""
        self.offloaded_blocks = 0
        """Copied since the start."""

    def offload(self, row: str, first: int, end: int) -> None:
        """Keep the blocks from `first` to before `end`, which leave the device: copy those that have no copy yet."""
        if not self._slots.total:
            return
        for key in reversed([_key(row, number) for number in range(first, end)]):
            if key in self._slots:
                self._slots.touch((key,))
            else:
                self._slots.put(key)
                self.offloaded_blocks += 1
        self._ends[row] = max(end, self._ends.get(row, 0))

    def copies(self, row: str, first: int, end: int) -> int:
        """Return how many blocks from `first` on, without a gap and before `end`, have a copy."""
        return self._slots.count(self._keys(row, first, end))

    def restore(self, row: str, first: int, blocks: int) -> None:
        """Note that so many blocks from `first` on are used now. Their copies stay."""
        self._slots.touch(self._keys(row, first, first + blocks))

    def cut(self, row: str, first: int) -> None:
        """Drop the copies from `first` on: what they hold is not part of the row any more."""
        for key in self._keys(row, first, self._ends.get(row, 0)):
            self._slots.remove(key)
        if not first:
            self._ends.pop(row, None)
        elif row in self._ends:
            self._ends[row] = min(first, self._ends[row])

    def check_integrity(self) -> None:
        """Raise AssertionError unless each slot is free or holds one copy of a known row."""
        self._slots.check_integrity()
        known = sum(_key(row, number) in self._slots for row, end in self._ends.items() for number in range(end))
        assert known == len(self._slots), "a copy belongs to no row"

    def _keys(self, row: str, first: int, end: int) -> list[bytes]:
        return [_key(row, number) for number in range(first, min(end, self._ends.get(row, 0)))]


def _key(row: str, number: int) -> bytes:
    return b"%s/%d" % (row.encode(), number)
