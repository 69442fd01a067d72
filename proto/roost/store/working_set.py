"""Which sessions are live at which worker, how much KV they need there, and how much of it they may need. Pure.

A live session's KV is worth keeping: it runs a step, or its next one is expected soon. A session that is not live has
to pass the gate, which is open while the live sessions of a worker, and this one, need no more than the target's part
of the worker's KV. `WorkingSet` is the twin of `scripts/_working_set.lua`, which takes the constants from here; a
property test compares the two. The simulator uses it as it is. Times are whole ms of one clock.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush

IDLE_MS = 30_000
"""How long a session stays live after its last step when nobody says how long it pauses."""
SHORTEST_PAUSE_MS = 5_000
LONGEST_PAUSE_MS = 300_000
"""Bounds of what a hold may say."""
WHOLE = 1000
"""The target and shares of tokens are in thousandths."""
START_TARGET = 800
LEAST_TARGET = 500
MOST_TARGET = 900
"""Hit rates collapse when the working set passes 750 to 870 thousandths of the KV (measured by others)."""
RAISED_BY = 2
"""Little, since sessions that are let in have yet to grow: 10 lost a tenth of the throughput in simulation."""
LOWERED_TO = 900
LOST_MUCH = 50
"""Of the logs of live sessions: when more is lost, the target falls."""
LOST_LITTLE = 20
"""When no more is lost, and steps are held, the target rises."""
ADAPT_MS = 2_000
"""Least time between two changes of the target."""
KEPT_PART = 2
"""A session that has less than one part in so many of its log cached has been evicted."""
LOST_PART = 10
"""So has one that has lost more than one part in so many, while its worker's live sessions need more than they may."""
HELD = "~"
"""Begins the names of the lines of steps that are held at the gate."""


class Admission(IntEnum):
    """What a step's reservation means for the working set."""

    UNCOUNTED = 0
    """The pool has no gate, and counts no session as live."""
    GATED = 1
    """It has to pass the gate, unless its session is live."""
    PASSED = 2
    """It has been held for long enough, or was let in before."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Tokens of KV that a session needs: those that it shares, each by a group's name, and its own."""

    prefix: str = ""
    prefix_tokens: int = 0
    family: str = ""
    family_tokens: int = 0
    own_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prefix_tokens + self.family_tokens + self.own_tokens

    @property
    def shares(self) -> Iterator[tuple[str, int]]:
        """Groups, and how many tokens the session needs of what each has."""
        if self.prefix:
            yield f"p{self.prefix}", self.prefix_tokens
        if self.family:
            yield f"f{self.family}", self.family_tokens


def footprint(tokens: int, prefix: str, prefix_tokens: int, family: str, family_tokens: int) -> Footprint:
    """The footprint of a session that needs `tokens`. It begins with a prefix of `prefix_tokens`; its first
    `family_tokens`, with these, are its family's. Names may be empty."""
    first = min(prefix_tokens, tokens) if prefix else 0
    shared = max(0, min(family_tokens, tokens) - first) if family else 0
    return Footprint(prefix if first else "", first, family if shared else "", shared, tokens - first - shared)


def pause_ms(expect_seconds: float) -> int:
    """How long a session stays live that is held for `expect_seconds`; 0 says nothing."""
    if expect_seconds <= 0:
        return IDLE_MS
    return min(LONGEST_PAUSE_MS, max(SHORTEST_PAUSE_MS, int(expect_seconds * 1000)))


def is_evicted(log_tokens: int, cached_tokens: int, *, is_over: bool) -> bool:
    """Whether a live session has to pass the gate again, because too much of its log was evicted. `is_over`: its
    worker's live sessions need more than they may, so that what it lost would be lost to others."""
    lost_tokens = log_tokens - cached_tokens
    return is_mostly_lost(log_tokens, cached_tokens) or (is_over and lost_tokens * LOST_PART > log_tokens)


def is_mostly_lost(log_tokens: int, cached_tokens: int) -> bool:
    """Whether so much of a log is lost that its session has to pass the gate again, however much others need."""
    return cached_tokens * KEPT_PART < log_tokens


@dataclass(slots=True)
class LiveSession:
    worker: str
    footprint: Footprint
    end_ms: int
    promised: bool = False
    """Whether it was live at its worker already when its step began: what is lost of its log then counts."""


@dataclass(slots=True)
class _Sum:
    """What the live sessions of a worker need."""

    tokens: int = 0
    sessions: int = 0
    groups: dict[str, "Counter[int]"] = field(default_factory=dict)
    """Group -> how many sessions need so many tokens of what it has."""

    def most_shared(self, group: str) -> int:
        return max(self.groups.get(group, ()), default=0)

    def change(self, needed: Footprint, sessions: int) -> None:
        """Adds one session (1) or takes it away (-1)."""
        self.sessions += sessions
        self.tokens += sessions * needed.own_tokens
        for group, tokens in needed.shares:
            sizes, before = self.groups.setdefault(group, Counter()), self.most_shared(group)
            sizes[tokens] += sessions
            if not sizes[tokens]:
                del sizes[tokens]
            self.tokens += self.most_shared(group) - before
            if not sizes:
                del self.groups[group]


@dataclass(slots=True)
class Target:
    """The part of a worker's KV that live sessions may need, in thousandths: additive increase, multiplicative
    decrease."""

    value: int = START_TARGET
    log_tokens: int = 0
    lost_tokens: int = 0
    since_ms: int = 0

    def observe(self, log_tokens: int, lost_tokens: int, now: int, *, held: bool, adapt_ms: int = ADAPT_MS) -> None:
        """Counts a live session that came back: how long its log was, and how much of that was lost. `held` says
        whether steps wait at the gate."""
        self.log_tokens += log_tokens
        self.lost_tokens += lost_tokens
        if self.log_tokens == 0 or now - self.since_ms < adapt_ms:
            return
        if self.lost_tokens * WHOLE > self.log_tokens * LOST_MUCH:
            self.value = max(LEAST_TARGET, self.value * LOWERED_TO // WHOLE)
        elif self.lost_tokens * WHOLE <= self.log_tokens * LOST_LITTLE and held:
            self.value = min(MOST_TARGET, self.value + RAISED_BY)
        self.log_tokens, self.lost_tokens, self.since_ms = 0, 0, now

    def limit(self, capacity_tokens: int) -> int:
        return self.value * capacity_tokens // WHOLE


class WorkingSet:
    """The live sessions of one pool."""

    def __init__(self) -> None:
        self.live: dict[str, LiveSession] = {}
        self.target = Target()
        self._sums: dict[str, _Sum] = {}
        self._ends: list[tuple[int, str]] = []
        """A heap; ends that are not the session's any more are dropped when they come to the top."""

    def tokens(self, worker: str) -> int:
        """What the live sessions of a worker need."""
        return self._sums[worker].tokens if worker in self._sums else 0

    def sessions(self, worker: str) -> int:
        return self._sums[worker].sessions if worker in self._sums else 0

    def expire(self, now: int) -> None:
        """Takes out the sessions whose time is over."""
        while (end := self.earliest_end()) is not None and end <= now:
            self.remove(self._ends[0][1])

    def earliest_end(self) -> int | None:
        while self._ends:
            end, name = self._ends[0]
            if name in self.live and self.live[name].end_ms == end:
                return end
            heappop(self._ends)
        return None

    def put(self, name: str, worker: str, needed: Footprint, end_ms: int, *, promised: bool = False) -> None:
        """Makes a session live at a worker, or changes what it needs, where, and until when."""
        before = self.live.get(name)
        if before is None or (before.worker, before.footprint) != (worker, needed):
            self.remove(name)
            self._sums.setdefault(worker, _Sum()).change(needed, 1)
        self.live[name] = LiveSession(worker, needed, end_ms, promised)
        heappush(self._ends, (end_ms, name))

    def renew(self, name: str, end_ms: int) -> None:
        """Lets a live session stay so until `end_ms` at least."""
        session = self.live.get(name)
        if session is not None and session.end_ms < end_ms:
            session.end_ms = end_ms
            heappush(self._ends, (end_ms, name))

    def remove(self, name: str) -> LiveSession | None:
        session = self.live.pop(name, None)
        if session is not None:
            total = self._sums[session.worker]
            total.change(session.footprint, -1)
            if not total.sessions:
                del self._sums[session.worker]
        return session

    def is_over(self, worker: str, capacity_tokens: int) -> bool:
        """Whether the live sessions of a worker need more than they may, as they do when their logs have grown."""
        return self.tokens(worker) > self.target.limit(capacity_tokens)

    def admits(self, worker: str, needed: Footprint, capacity_tokens: int) -> bool:
        """Whether the gate is open at a worker for a session that is not live there: it is to one of any size while no
        session is live there."""
        total = self._sums.get(worker)
        if total is None:
            return True
        more = sum(max(0, tokens - total.most_shared(group)) for group, tokens in needed.shares)
        return total.tokens + more + needed.own_tokens <= self.target.limit(capacity_tokens)

    def check_integrity(self) -> None:
        """Raises AssertionError unless the sums are those of the live sessions."""
        for worker in {session.worker for session in self.live.values()} | set(self._sums):
            here = [session.footprint for session in self.live.values() if session.worker == worker]
            most: Counter[str] = Counter()
            for needed in here:
                for group, tokens in needed.shares:
                    most[group] = max(most[group], tokens)
            tokens = sum(needed.own_tokens for needed in here) + sum(most.values())
            assert (self.tokens(worker), self.sessions(worker)) == (tokens, len(here)), f"{worker} is miscounted"
