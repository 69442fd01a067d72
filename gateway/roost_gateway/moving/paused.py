"""Sessions on hold, and which of them is rebuilt at its home before it is expected back. Pure.

Times are seconds of one clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from roost.contract.lease import LEASE_PERIOD_SECONDS
from roost.store.holds import HoldRecord
from roost.store.residency import Residency
from roost_gateway.routing.choice import DEFAULT_PREFILL_RATE, WorkerState

MOST_SESSIONS = 16_384
"""Sessions that are remembered; who went on hold longest ago is forgotten first, and rebuilt on demand."""
LEAST_TOKENS = 64
"""Fewer missing tokens are left to the session's step: a block or two more make no difference to it."""
LEAD_SECONDS = 30.0
"""How long before a session is expected its rebuild may begin, beside twice the time that it takes: what is rebuilt
early may be evicted again, and what is rebuilt late may find no idle worker."""
SETTLE_SECONDS = 2 * LEASE_PERIOD_SECONDS
"""How long after a pause began what its home publishes is as new as the pause."""
MOST_READ = 32
"""Of one home's sessions, how many are compared at once with what it has cached."""
PASSED_OVER_SECONDS = 3.0
"""For how long a session lets others go first that has lost nothing, or for which its home has no room."""


@dataclass(frozen=True, slots=True)
class PausedSession:
    """A session whose client has said for how long it is away."""

    session_id: str
    tenant: str
    home: str
    """Worker that committed its last step."""
    log_tokens: int
    hold: HoldRecord
    begin: float
    """When the pause began."""
    not_before: float = 0.0
    """Until when it lets others go first."""

    @property
    def due(self) -> float:
        return self.begin + self.hold.expect_seconds

    @property
    def end(self) -> float:
        """When it is not expected any more: it is away for twice as long as it said."""
        return self.due + self.hold.expect_seconds

    def is_soon(self, home: WorkerState, now: float) -> bool:
        """Whether a rebuild that begins now is not too early."""
        seconds = self.log_tokens / (home.lease.prefill_rate or DEFAULT_PREFILL_RATE)
        return now >= max(self.begin + SETTLE_SECONDS, self.due - LEAD_SECONDS - 2 * seconds, self.not_before)


class PausedSessions:
    """The paused sessions of one pool, by name."""

    def __init__(self) -> None:
        self._sessions: dict[str, PausedSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: PausedSession) -> None:
        """Remember a pause, in place of the session's last one."""
        self._sessions.pop(session.session_id, None)
        self._sessions[session.session_id] = session
        if len(self._sessions) > MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]

    def discard(self, session: PausedSession) -> None:
        """Forget a pause, unless the session has begun another one since."""
        if self._sessions.get(session.session_id) is session:
            del self._sessions[session.session_id]

    def pass_over(self, session: PausedSession, now: float) -> None:
        """Let others go first for a while, unless the session has begun another pause since."""
        if self._sessions.get(session.session_id) is session:
            self._sessions[session.session_id] = replace(session, not_before=now + PASSED_OVER_SECONDS)

    def expected(self, homes: Iterable[WorkerState], now: float) -> Mapping[str, list[PausedSession]]:
        """Return those that each of the homes may rebuild now, by the home's id: the soonest to return first, and at
        most `MOST_READ` of each. O(n) for all homes together."""
        self._sessions = {name: session for name, session in self._sessions.items() if session.end > now}
        by_id = {home.worker_id: home for home in homes}
        soon: dict[str, list[PausedSession]] = {}
        for session in self._sessions.values():
            home = by_id.get(session.home)
            if home is not None and session.is_soon(home, now):
                soon.setdefault(session.home, []).append(session)
        return {home: sorted(those, key=lambda session: session.due)[:MOST_READ] for home, those in soon.items()}

    def first_to_rebuild(
        self, expected: Iterable[PausedSession], cached: Mapping[str, Residency], home: WorkerState, now: float
    ) -> PausedSession | None:
        """Return the first of the sessions that has lost KV at its home and fits there, or None. Those before it are
        passed over."""
        for session in expected:
            have = cached.get(session.session_id, Residency(home.worker_id, 0))
            missing = session.log_tokens - have.cached_tokens - have.warm_tokens
            if LEAST_TOKENS <= missing <= home.free_tokens:
                return session
            self.pass_over(session, now)
        return None


def has_time(worker: WorkerState) -> bool:
    """Whether a worker has nothing to do now, nothing is on its way to it, and its live sessions need no more KV than
    they may."""
    quiet = worker.lease.idle and not worker.lease.stops and not worker.reserved_attempts
    return quiet and (not worker.live_limit or worker.live_tokens <= worker.live_limit)
