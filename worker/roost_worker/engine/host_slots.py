"""Slots of host memory and the blocks that they hold, by content."""

from collections import OrderedDict
from collections.abc import Sequence


class HostSlots:
    """Each slot holds a copy of one full block under the block's key. The least recently used copy leaves first."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._slots: OrderedDict[bytes, int] = OrderedDict()
        self._free = list(range(total - 1, -1, -1))

    def __len__(self) -> int:
        """Number of slots that hold a copy."""
        return len(self._slots)

    def __contains__(self, key: bytes) -> bool:
        return key in self._slots

    def get(self, key: bytes) -> int | None:
        """Return the slot that holds the block under `key`, or None."""
        return self._slots.get(key)

    def count(self, keys: Sequence[bytes]) -> int:
        """Return how many of `keys`, from the first one on, have a copy."""
        return next((count for count, key in enumerate(keys) if key not in self._slots), len(keys))

    def put(self, key: bytes) -> tuple[int, bytes | None]:
        """Return a slot for a block that has none, and the key of the copy that it displaces, or None."""
        assert key not in self._slots, "a block has two slots"
        displaced = None
        if not self._free:
            displaced, slot = self._slots.popitem(last=False)
            self._free.append(slot)
        slot = self._slots[key] = self._free.pop()
        return slot, displaced

    def touch(self, keys: Sequence[bytes]) -> None:
        """Mark the copies of a context's blocks as used now. A later block leaves before an earlier one."""
        for key in reversed(keys):
            if key in self._slots:
                self._slots.move_to_end(key)

    def remove(self, key: bytes) -> None:
        """Free the slot of the block under `key`, if it has one."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._free.append(slot)

    def check_integrity(self) -> None:
        """Raise AssertionError unless each slot is free or holds one copy."""
        assert sorted([*self._free, *self._slots.values()]) == list(range(self.total)), "a slot is lost or used twice"
