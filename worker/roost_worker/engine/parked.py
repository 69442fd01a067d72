"""Sequences of sessions that are not running: ids and the blocks with their KV, including the partial tail."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass


def common_prefix(left: "array[int]", right: "array[int]") -> int:
    """Length of the longest common prefix."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


@dataclass(slots=True)
class ParkedSequence:
    """KV of `len(ids)` tokens in `blocks`: full ones are sealed, a partial last one belongs to this session alone."""

    session: str
    cache_key: bytes
    ids: "array[int]"
    blocks: "array[int]"
    arrival: int
    """Number of the request that it comes from."""
    last_used: float
    held_until: float = 0.0
    tool: str = ""
    """Tool that the last hold named; that hold may be over."""
    expect_seconds: float = 0.0
    """Seconds that the client expected the last hold to last; 0 when it did not know."""
    role: str = ""
    """Role of the session in its pool."""

    def pop_block(self, block_tokens: int) -> int:
        """Remove the last block and the ids in it, and return the block."""
        block = self.blocks.pop()
        del self.ids[len(self.blocks) * block_tokens :]
        return block


class ParkedSequences:
    """At most one parked sequence per session."""

    def __init__(self) -> None:
        self._by_session: dict[str, ParkedSequence] = {}
        self._held: set[str] = set()

    def __iter__(self) -> Iterator[ParkedSequence]:
        return iter(self._by_session.values())

    def __len__(self) -> int:
        return len(self._by_session)

    def get(self, session: str) -> ParkedSequence | None:
        return self._by_session.get(session)

    def add(self, parked: ParkedSequence) -> None:
        assert parked.session not in self._by_session, f"{parked.session} is parked already"
        self._by_session[parked.session] = parked

    def pop(self, session: str) -> ParkedSequence | None:
        """Remove and return the session's parked sequence, with its hold."""
        self._held.discard(session)
        return self._by_session.pop(session, None)

    def hold(self, session: str, until: float, tool: str = "", expect_seconds: float = 0.0) -> None:
        """Mark the session's parked sequence, if there is one, as held until that time."""
        parked = self._by_session.get(session)
        if parked:
            parked.held_until, parked.tool, parked.expect_seconds = until, tool, expect_seconds
            self._held.add(session)

    def end_hold(self, session: str) -> bool:
        """End the session's hold. Return whether there was one to end."""
        if session not in self._held:
            return False
        self._held.discard(session)
        self._by_session[session].held_until = 0.0
        return True

    def held(self, now: float) -> int:
        """Return the number of sessions whose hold has not expired."""
        self._held = {session for session in self._held if self._by_session[session].held_until > now}
        return len(self._held)

    def check_integrity(self, block_tokens: int) -> None:
        """Raise AssertionError unless each parked sequence's blocks cover its ids exactly."""
        for session, parked in self._by_session.items():
            assert parked.session == session, f"{session} is parked under another name"
            assert parked.ids, f"{session} is parked without tokens"
            assert len(parked.blocks) == -(-len(parked.ids) // block_tokens), f"{session}'s blocks do not fit its ids"
        assert self._held <= self._by_session.keys(), "a session is held that is not parked"
