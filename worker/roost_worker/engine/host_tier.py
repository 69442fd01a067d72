"""The WARM tier: which blocks that leave the device are kept in host memory, and which are copied back.

Pure: it plans copies (`HostCopy`), which every rank makes of its own part of a block. A copy that was restored stays in
its slot, so that the block can leave the device again without another copy. What host memory holds is no promise: a
copy may leave at any time, and what is not there when a sequence comes to it is computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from roost_worker.engine.host_slots import HostSlots
from roost_worker.engine.plan import HostCopy
from roost_worker.engine.prefix_index import PrefixIndex
from roost_worker.engine.session_chains import SessionChains

COPY_SECONDS = 0.02
"""How long the restores of one batch may take, since the batch waits for them."""
FIRST_RESTORES = 16
"""Most restores of a batch while it is not known how long one takes."""
TRIAL_INTERVAL = 64
"""Of the blocks that it does not pay to keep, one in this many is kept in spite of that, so that the time of a copy is
measured again."""


@dataclass(slots=True)
class HostCounters:
    """Blocks since the engine's start, named as in `EngineStats`."""

    offloaded_blocks: int = 0
    discarded_blocks: int = 0
    displaced_blocks: int = 0
    restored_blocks: int = 0
    corrupted_blocks: int = 0


def restores_per_batch(copied_blocks: float) -> int:
    """Return how many blocks a batch may restore, at so many copied per second."""
    return max(1, int(copied_blocks * COPY_SECONDS))


def copying_pays(copied_blocks: float, block_tokens: int, prefilled_tokens: float) -> bool:
    """Return whether to copy a block is faster than to compute its tokens, by what is done per second."""
    return copied_blocks * block_tokens > prefilled_tokens


class HostTier:
    """Copies in host memory, and what is cached of each session. Without slots it does nothing."""

    def __init__(self, slots: int, block_tokens: int, index: PrefixIndex) -> None:
        self.slots = HostSlots(slots)
        self.counters = HostCounters()
        self._chains = SessionChains()
        self._block_tokens, self._index = block_tokens, index
        self._copies: list[HostCopy] = []
        self._restores = 0
        self._restores_per_batch = FIRST_RESTORES
        self._pays = True
        self._does_not_pay = 0
        self._on_device: dict[str, int] = {}
        self._reported: dict[str, int] = {}

    def note_rates(self, copied_blocks: float, prefilled_tokens: float) -> None:
        """Take what was measured: blocks copied and tokens prefilled per second; 0 while not known."""
        if copied_blocks:
            self._restores_per_batch = restores_per_batch(copied_blocks)
        known = copied_blocks > 0 and prefilled_tokens > 0
        self._pays = not known or copying_pays(copied_blocks, self._block_tokens, prefilled_tokens)

    def offload(self, block: int) -> None:
        """Plan a copy of a full block that is about to leave the device, if restoring it is faster than computing."""
        key = self._index.key(block)
        if key in self.slots:
            self.slots.touch((key,))
            return
        if not self.slots.total:
            return
        if not self._pays and not self._is_trial():
            self.counters.discarded_blocks += 1
            return
        slot, displaced = self.slots.put(key)
        self._copies.append(HostCopy(block, slot))
        self.counters.offloaded_blocks += 1
        if displaced is not None:
            self.counters.displaced_blocks += 1
            self._cut_if_gone(displaced)

    def left_device(self, key: bytes) -> None:
        """Note that the block under `key` is not on the device any more."""
        self._cut_if_gone(key)

    def restores(self, key: bytes) -> bool:
        """Return whether the block under `key` is to be restored rather than computed."""
        return self._pays and key in self.slots

    def restorable(self, keys: Sequence[bytes]) -> int:
        """Return how many of the blocks under `keys`, from the first one on, are restored rather than computed."""
        return self.slots.count(keys) if self._pays else 0

    def plan_restores(self, keys: Sequence[bytes], blocks: Sequence[int]) -> int:
        """Plan to copy the first of `keys` that are in host memory into `blocks`, as many as this batch may restore.

        Return how many that are.
        """
        planned = 0
        for key, block in zip(keys, blocks, strict=False):
            slot = self.slots.get(key)
            if slot is None or self._restores == self._restores_per_batch:
                break
            self._copies.append(HostCopy(block, slot, restore=True))
            self._restores += 1
            planned += 1
        return planned

    def note_restored(self, keys: Sequence[bytes], intact: Sequence[bool]) -> int:
        """Take the verdicts on the copies of `keys`, blocks of one context in order. Drop those that are corrupted.

        Return how many blocks came back before the first corrupted one.
        """
        for key, good in zip(keys, intact, strict=True):
            if not good:
                self.counters.corrupted_blocks += 1
                self.slots.remove(key)
                self._cut_if_gone(key)
        restored = next((count for count, good in enumerate(intact) if not good), len(intact))
        self.counters.restored_blocks += restored
        return restored

    def take_copies(self) -> tuple[HostCopy, ...]:
        """Return the copies planned since the last call, in the order in which they must be made."""
        copies, self._copies, self._restores = tuple(self._copies), [], 0
        return copies

    def set_chain(self, session: str, keys: Sequence[bytes]) -> None:
        """Note that all blocks under `keys`, the full ones of a session's log, are cached."""
        if self.slots.total:
            self._chains.put(session, keys)

    def drop_session(self, session: str) -> int:
        """Forget a session, and the copies of its blocks that no other session has. Return the tokens it had cached."""
        tokens = self._chains.blocks(session) * self._block_tokens
        for key in self._chains.put(session, ()):
            self.slots.remove(key)
        return tokens

    def take_warm(
        self, parked: Sequence[tuple[str, int]], dropped: Sequence[tuple[str, int]]
    ) -> tuple[tuple[str, int], ...]:
        """Return (session, tokens cached behind those parked) where that number has changed since the last call.

        `parked` and `dropped` are what `Outputs` reports beside them.
        """
        if not self.slots.total:
            return ()
        for session, _ in dropped:
            self._on_device.pop(session, None)
        self._on_device.update(parked)
        touched = dict.fromkeys([*self._chains.take_changed(), *(entry[0] for entry in (*dropped, *parked))])
        return tuple(change for session in touched if (change := self._warm_change(session)))

    def check_integrity(self) -> None:
        """Raise AssertionError unless slots, chains and the device's blocks agree."""
        assert not self._copies, "a copy was planned for no batch"
        self.slots.check_integrity()
        self._chains.check_integrity(lambda key: key in self.slots or self._index.get(key) is not None)

    def _is_trial(self) -> bool:
        self._does_not_pay += 1
        return self._does_not_pay % TRIAL_INTERVAL == 0

    def _warm_change(self, session: str) -> tuple[str, int] | None:
        tokens = max(0, self._chains.blocks(session) * self._block_tokens - self._on_device.get(session, 0))
        if tokens == self._reported.get(session, 0):
            return None
        self._reported[session] = tokens
        if not tokens:
            del self._reported[session]
        return session, tokens

    def _cut_if_gone(self, key: bytes) -> None:
        """End the sessions' chains before a block that is not cached any more. Copies behind it are of no use."""
        if key not in self.slots and self._index.get(key) is None:
            for unused in self._chains.cut_before(key):
                self.slots.remove(unused)
