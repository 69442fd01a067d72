"""Retention policies that others have published, as they are described, to compare with. Pure.

They are orders of eviction only: what their systems do besides, such as holding back sessions, is left out. Where their
sources say nothing, the least recently used goes first.
"""

from bisect import insort
from collections import deque

from roost_gateway.simulator.costs import WorkerCosts
from roost_worker.engine.retention import Candidate, Eviction, Rank, RetentionPolicy, Return


class StaticTtl(RetentionPolicy):
    """KV is pinned for a fixed time after a step that calls a tool.

    The static arm in the ablation of Continuum (arXiv 2511.02230).
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def rank(self, candidate: Candidate, now: float) -> Rank:
        end = candidate.last_used + self._seconds
        pinned = candidate.held_until > 0 and end > now
        order = (float(candidate.wanted), float(pinned), candidate.last_used)
        return Rank(order, end) if pinned else Rank(order)


class ShortestFirst(RetentionPolicy):
    """The shortest context goes first, because rebuilding costs its square.

    The order in which ThunderAgent (arXiv 2602.13692) pauses, without the rest of it.
    """

    def rank(self, candidate: Candidate, now: float) -> Rank:
        return Rank((float(candidate.wanted), float(candidate.tokens), candidate.last_used))


class TailOptimizedLru(RetentionPolicy):
    """First what a session can lose and still answer in time, then the least recently used.

    T-LRU (arXiv 2510.15152): of a context of L tokens, whose next prompt adds Q, only L + Q - x have to be cached if x
    tokens can be computed within the goal for the first token. Q is the moving mean over all sessions.
    """

    def __init__(self, uncached_tokens: float) -> None:
        """`uncached_tokens` is x."""
        self._uncached_tokens = uncached_tokens
        self._new_tokens = 0.0
        self._contexts: dict[str, tuple[float, int]] = {}
        """When each session paused, and how long its context was."""

    def rank(self, candidate: Candidate, now: float) -> Rank:
        spare = False
        if candidate.session is not None:
            paused, context = self._contexts.get(candidate.session, (candidate.last_used, 0))
            context = max(context if paused == candidate.last_used else 0, candidate.tokens)
            self._contexts[candidate.session] = candidate.last_used, context
            spare = candidate.tokens > context + self._new_tokens - self._uncached_tokens
        return Rank((float(candidate.wanted), float(not spare), candidate.last_used))

    def came_back(self, event: Return, now: float) -> None:
        if event.session in self._contexts:
            new = max(0, event.context_tokens - self._contexts.pop(event.session)[1])
            self._new_tokens += 0.05 * (new - self._new_tokens)

    def evicted(self, event: Eviction, now: float) -> None:
        if event.requested and event.candidate.session:
            self._contexts.pop(event.candidate.session, None)


class ToolTtl(RetentionPolicy):
    """KV is pinned after a tool call for the time that gains most by what tools took before.

    Continuum (arXiv 2511.02230): of the last 100 durations t of the tool the one with the greatest P(t) * reload - t,
    where P(t) is the share of durations up to t and reload the seconds of rebuilding the context. Its other term, the
    queue that a return waits in times the memoryfulness of the number of turns, is left out: on real coding agents that
    is 0. If all is pinned, the session that began last goes first.
    """

    def __init__(self, costs: WorkerCosts) -> None:
        self._costs = costs
        self._durations: dict[str, deque[float]] = {}
        self._ordered: dict[str, list[float]] = {}
        self._arrivals: dict[str, int] = {}
        self._pauses: dict[str, tuple[float, str]] = {}
        """When each session paused, and the tool."""
        self._ends: dict[str, tuple[float, float]] = {}
        """When each session paused, and until when it is pinned."""
        self._count = 0

    def rank(self, candidate: Candidate, now: float) -> Rank:
        end = self._pinned_until(candidate)
        if end <= now:
            return Rank((float(candidate.wanted), 0.0, candidate.last_used))
        return Rank((float(candidate.wanted), 1.0, -float(self._arrivals.get(candidate.session or "", 0))), end)

    def came_back(self, event: Return, now: float) -> None:
        if event.session is None:
            return
        if event.session not in self._arrivals:
            self._count += 1
            self._arrivals[event.session] = self._count
        self._ends.pop(event.session, None)
        if pause := self._pauses.pop(event.session, None):
            self._record(pause[1], max(0.0, event.submitted - pause[0]))

    def evicted(self, event: Eviction, now: float) -> None:
        if event.requested and event.candidate.session:
            for remembered in (self._arrivals, self._pauses, self._ends):
                remembered.pop(event.candidate.session, None)

    def _record(self, tool: str, seconds: float) -> None:
        last, ordered = self._durations.setdefault(tool, deque()), self._ordered.setdefault(tool, [])
        last.append(seconds)
        insort(ordered, seconds)
        if len(last) > 100:
            ordered.remove(last.popleft())

    def _pinned_until(self, candidate: Candidate) -> float:
        """Return when the candidate's time ends; it is fixed when the session pauses."""
        session = candidate.session
        if session is None or not candidate.held_until:
            return 0.0
        paused, end = self._ends.get(session, (-1.0, 0.0))
        if paused != candidate.last_used:
            end = candidate.last_used + self._best_seconds(candidate)
            self._ends[session] = candidate.last_used, end
            self._pauses[session] = candidate.last_used, candidate.tool
        return end

    def _best_seconds(self, candidate: Candidate) -> float:
        durations = self._ordered.get(candidate.tool, [])
        reload = self._costs.prefill_seconds(candidate.tokens, 0)
        gains = [((rank / len(durations)) * reload - seconds, seconds) for rank, seconds in enumerate(durations, 1)]
        gain, seconds = max(gains, default=(0.0, 0.0))
        return seconds if gain > 0 else 0.0


class PauseByDemand(RetentionPolicy):
    """Every 5 s the shortest sessions are paused until the others' demand fits; what is paused goes first.

    ThunderAgent (arXiv 2602.13692): demand is the context of each session that computes, and that of each that waits
    for a tool, halved for every second that it waits. Only those that wait are paused. A return ends a pause: holding
    returns back until there is room is its admission, not its retention.
    """

    TICK_SECONDS = 5.0

    def __init__(self, kv_tokens: int) -> None:
        self._kv_tokens = kv_tokens
        self._computing: dict[str, int] = {}
        self._acting: dict[str, tuple[float, int]] = {}
        """When each session began to wait, and its context."""
        self._paused: set[str] = set()
        self._next_tick = 0.0

    def rank(self, candidate: Candidate, now: float) -> Rank:
        session = candidate.session
        if session is not None and self._acting.get(session, (-1.0, 0))[0] != candidate.last_used:
            self._computing.pop(session, None)
            self._acting[session] = candidate.last_used, candidate.tokens
        if now >= self._next_tick:
            self._next_tick = now + self.TICK_SECONDS
            self._pause_shortest(now)
        paused = session in self._paused
        return Rank((float(candidate.wanted), float(not paused), candidate.last_used), now + self.TICK_SECONDS)

    def came_back(self, event: Return, now: float) -> None:
        if event.session is not None:
            self._forget(event.session)
            self._computing[event.session] = event.context_tokens

    def evicted(self, event: Eviction, now: float) -> None:
        if event.requested and event.candidate.session:
            self._forget(event.candidate.session)

    def _forget(self, session: str) -> None:
        self._computing.pop(session, None)
        self._acting.pop(session, None)
        self._paused.discard(session)

    def _pause_shortest(self, now: float) -> None:
        demands = {
            session: context * 2.0 ** (began - now)
            for session, (began, context) in self._acting.items()
            if session not in self._paused
        }
        demand = sum(self._computing.values()) + sum(demands.values())
        for session in sorted(demands, key=lambda session: self._acting[session][1]):
            if demand <= self._kv_tokens:
                return
            self._paused.add(session)
            demand -= demands[session]


class IdlestFirst(RetentionPolicy):
    """The session that spends the greatest share of its time waiting for tools goes first.

    MORI (arXiv 2606.00866): idleness is the waiting time of the last five cycles of all of their time, the present wait
    included, which is looked at every 5 s.
    """

    LOOK_SECONDS = 5.0
    CYCLES = 5

    def __init__(self) -> None:
        self._cycles: dict[str, deque[tuple[float, float]]] = {}
        """Of each session: seconds computing, and then waiting."""
        self._began: dict[str, float] = {}
        """When each session began to compute."""
        self._waits: dict[str, tuple[float, float]] = {}
        """When each session began to wait, and how long it had computed before."""

    def rank(self, candidate: Candidate, now: float) -> Rank:
        idleness = 1.0
        if (session := candidate.session) is not None:
            if self._waits.get(session, (-1.0, 0.0))[0] != candidate.last_used:
                computed = candidate.last_used - self._began.get(session, candidate.last_used)
                self._waits[session] = candidate.last_used, computed
            idleness = self._idleness(session, now)
        return Rank((float(candidate.wanted), -idleness, candidate.last_used), now + self.LOOK_SECONDS)

    def came_back(self, event: Return, now: float) -> None:
        if (session := event.session) is not None:
            if wait := self._waits.pop(session, None):
                cycles = self._cycles.setdefault(session, deque(maxlen=self.CYCLES))
                cycles.append((wait[1], max(0.0, event.submitted - wait[0])))
            self._began[session] = now

    def evicted(self, event: Eviction, now: float) -> None:
        if event.requested and event.candidate.session:
            for remembered in (self._cycles, self._began, self._waits):
                remembered.pop(event.candidate.session, None)

    def _idleness(self, session: str, now: float) -> float:
        began, computed = self._waits[session]
        cycles = [*self._cycles.get(session, ()), (computed, now - began)][-self.CYCLES :]
        waited = sum(wait for _, wait in cycles)
        return waited / whole if (whole := waited + sum(compute for compute, _ in cycles)) else 0.0
