"""Keeps what is expected to save most: how soon a session returns is learned, what a return saves is computed."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, inf, log, nextafter

from roost_worker.engine.pauses import (
    BINS,
    EDGES,
    PRIOR,
    PROMISED_PRIOR,
    PROMISED_SECONDS,
    PauseCounts,
    bin_of,
    return_rate,
)
from roost_worker.engine.retention import Candidate, Eviction, Rank, RetentionPolicy, Return

MOST_SESSIONS = 16_384
"""Sessions that are remembered; who paused longest ago is forgotten first."""
MOST_COUNTS = 1024
"""Kinds of pauses whose lengths are counted. Clients name tools as they like, so kinds that were not seen for longest
are forgotten, and their pauses are judged by what is known more generally."""
PACES = (4.0, 8.0, 16.0, 32.0, 64.0)
"""Bounds of a session's pace: the typical length of its last pauses, in seconds."""

_NEWEST_PAUSE = 0.3
"""Share of the newest pause in a session's pace."""
_SHORTEST_PAUSE = 0.5
"""Seconds; shorter pauses count as this in a session's pace, and so do shorter ones that clients promise."""

Kind = tuple[str | int, ...]
"""What is known of a pause, the most general first: how it began, the session's pace, its role, its tool."""


@dataclass(slots=True)
class _Session:
    """What is remembered of a session, with and without KV here."""

    paused_at: float
    kind: Kind = ()
    """Empty while the session runs."""
    scale: float = 1.0
    """Seconds of the pause for each second of the counts."""
    log_pace: float | None = None
    """Moving mean of the logarithm of its pauses; None before the first one has ended."""


class LearnedReturns(RetentionPolicy):
    """What saves the fewest seconds of rebuilding goes first, for each block and second that it would be kept.

    A session's return rate follows from counts of pauses like this one: whether the client holds the session or has
    said how long, how long the session's last pauses were, its role and tool. Counts of rarer kinds are smoothed by
    those of more general ones. The rate counts from the time that the session has paused already, up to whatever time
    it pays most to wait. It is multiplied by what rebuilding a token of the candidate costs in the mean, which grows
    with depth, so that what is left of a trimmed candidate is cheaper to lose.
    """

    def __init__(self, pair_cost: float) -> None:
        """`pair_cost` is the model's (`RunnerInfo.pair_cost`)."""
        self._pair_cost = pair_cost
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._counts: OrderedDict[Kind, PauseCounts] = OrderedDict()

    def rank(self, candidate: Candidate, now: float) -> Rank:
        if candidate.wanted:
            return Rank((1.0, 0.0, candidate.last_used))
        kind, scale = self._pause_of(candidate, now)
        first = bin_of(max(0.0, now - candidate.last_used) / scale)
        cost = 1.0 + self._pair_cost * candidate.tokens / 2
        saved = return_rate(self._shares(kind, first), first) / scale * cost
        until = candidate.last_used + EDGES[first + 1] * scale if first + 1 < BINS else inf
        return Rank((0.0, saved, candidate.last_used), max(until, nextafter(now, inf)))

    def came_back(self, event: Return, now: float) -> None:
        for candidate in event.used:
            if candidate.session is None:
                self._count(_LOOSE, max(0.0, event.submitted - candidate.last_used), ended=True)
        session = self._sessions.get(event.session) if event.session else None
        if session and session.kind:
            pause = max(0.0, event.submitted - session.paused_at)
            self._count(session.kind, pause / session.scale, ended=True)
            session.kind = ()
            newest = log(max(pause, _SHORTEST_PAUSE))
            before = newest if session.log_pace is None else session.log_pace
            session.log_pace = before + _NEWEST_PAUSE * (newest - before)

    def evicted(self, event: Eviction, now: float) -> None:
        candidate = event.candidate
        if candidate.session is None:
            if event.tokens >= candidate.tokens:
                self._count(_LOOSE, max(0.0, now - candidate.last_used), ended=False)
        elif event.requested and (session := self._sessions.pop(candidate.session, None)):
            self._give_up(session, now)

    def _pause_of(self, candidate: Candidate, now: float) -> tuple[Kind, float]:
        """Return the kind and the scale of the candidate's pause, and remember them until the session returns.

        They follow from the last hold. A hold that a request has ended counts until that request runs.
        """
        if candidate.session is None:
            return _LOOSE, 1.0
        session = self._sessions.get(candidate.session)
        if session is None:
            session = self._sessions[candidate.session] = _Session(candidate.last_used)
            self._forget_sessions(now)
        new = not session.kind or session.paused_at != candidate.last_used
        if new or candidate.held_until:
            session.paused_at = candidate.last_used
            session.kind = _kind_of(candidate, session.log_pace)
            promised = max(candidate.expect_seconds, _SHORTEST_PAUSE)
            session.scale = promised / PROMISED_SECONDS if session.kind[0] == _PROMISED else 1.0
        if new:
            self._sessions.move_to_end(candidate.session)
        return session.kind, session.scale

    def _shares(self, kind: Kind, first: int) -> Iterator[float]:
        """Yield the shares of pauses of a kind that end in each bin from `first` on, of those that reach it."""
        known = [counts for part in _from_general(kind) if (counts := self._counts.get(part))]
        for number, share in enumerate((PROMISED_PRIOR if kind[0] == _PROMISED else PRIOR)[first:], first):
            for counts in known:
                share = counts.refine(share, number)
            yield share

    def _count(self, kind: Kind, pause: float, *, ended: bool) -> None:
        for part in _from_general(kind):
            counts = self._counts.setdefault(part, PauseCounts())
            self._counts.move_to_end(part)
            counts.add(pause, ended=ended)
        while len(self._counts) > MOST_COUNTS:
            self._counts.popitem(last=False)

    def _forget_sessions(self, now: float) -> None:
        while len(self._sessions) > MOST_SESSIONS:
            self._give_up(self._sessions.popitem(last=False)[1], now)

    def _give_up(self, session: _Session, now: float) -> None:
        """Count the pause of a session that is not waited for any longer, if it pauses."""
        if session.kind:
            self._count(session.kind, max(0.0, now - session.paused_at) / session.scale, ended=False)


_PROMISED, _HELD, _ENDED = "promised", "held", "ended"
_LOOSE: Kind = ("loose",)


def _kind_of(candidate: Candidate, log_pace: float | None) -> Kind:
    """Return the kind of a session's pause that has just begun."""
    pace = len(PACES) + 1 if log_pace is None else sum(exp(log_pace) > bound for bound in PACES)
    if not candidate.held_until:
        return _ENDED, pace, candidate.role
    return _PROMISED if candidate.expect_seconds else _HELD, pace, candidate.role, candidate.tool


def _from_general(kind: Kind) -> Iterator[Kind]:
    """Return the kinds that include `kind`, and last itself."""
    return (kind[:length] for length in range(1, len(kind) + 1))
