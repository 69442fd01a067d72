"""What a worker remembers of the KV that it dropped, so that a session's next step can say why it is rebuilt. Pure."""

from collections import OrderedDict
from dataclasses import dataclass

from roost.contract.why import KvEviction
from roost_worker.engine.messages import Evicted

MAX_EVICTIONS = 4096
"""As many as the shell keeps logs (`sessions.MAX_LOGS`)."""


@dataclass(frozen=True, slots=True)
class _Eviction:
    tokens: int
    at: float
    for_session: str = ""
    requested: bool = False
    rebuild_seconds: float = 0.0


_NONE = _Eviction(tokens=0, at=0.0)


class EvictionMemory:
    """A session's evictions since its last step here. It is bounded: what was evicted longest ago is forgotten first.

    Times are seconds of one monotonic clock.
    """

    def __init__(self, policy: str, *, most: int = MAX_EVICTIONS) -> None:
        """`policy` is the name of the retention policy that chooses what goes."""
        self._policy, self._most = policy, most
        self._by_session: OrderedDict[str, _Eviction] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_session)

    def made_room(self, evicted: Evicted, now: float, prefill_rate: float) -> None:
        """Add an eviction to those of its session. The latest one says when, and for whom.

        `prefill_rate` is in tokens per second, 0 when it is not known.
        """
        before = self._by_session.get(evicted.session, _NONE)
        seconds = evicted.tokens / prefill_rate if prefill_rate else 0.0
        eviction = _Eviction(
            before.tokens + evicted.tokens,
            now,
            evicted.for_session,
            rebuild_seconds=before.rebuild_seconds + seconds,
        )
        self._put(evicted.session, eviction)

    def requested(self, session: str, tokens: int, now: float) -> None:
        """Remember that the gateway asked for an eviction, unless nothing was left to drop."""
        if tokens:
            self._put(session, _Eviction(tokens, now, requested=True))

    def recall(self, session: str, now: float) -> KvEviction | None:
        """Return what is remembered of a session's KV, or None."""
        eviction = self._by_session.get(session)
        if eviction is None:
            return None
        policy = "" if eviction.requested else self._policy
        ago = max(0.0, now - eviction.at)
        return KvEviction(
            eviction.tokens, ago, eviction.for_session, policy, eviction.requested, eviction.rebuild_seconds
        )

    def forget(self, session: str) -> None:
        """Forget a session's evictions, because its KV is rebuilt or the session is erased."""
        self._by_session.pop(session, None)

    def _put(self, session: str, eviction: _Eviction) -> None:
        self._by_session[session] = eviction
        self._by_session.move_to_end(session)
        while len(self._by_session) > self._most:
            self._by_session.popitem(last=False)
