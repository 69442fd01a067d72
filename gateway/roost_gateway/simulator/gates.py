"""Which sessions a simulated gateway lets in: production's working set, and what it is compared with. Pure.

A gate counts sessions as live, lets their steps pass, and holds those of others until it is open at some worker. Times
are seconds of the simulation's clock.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from roost.contract.pool_document import DEFAULT_MAX_HOLD_SECONDS, DEFAULT_QUEUE_TIMEOUT_SECONDS
from roost.store.working_set import IDLE_MS, Footprint, WorkingSet, footprint, is_evicted, is_mostly_lost
from roost_gateway.routing.choice import WorkerState
from roost_gateway.simulator.job import Job

NONE = "none"
LOOK_SECONDS = 0.5
"""How often gateways look at their lines, whether something is released or not."""


class Gate(Protocol):
    max_hold_seconds: float
    """After that a held step passes."""
    look_seconds: float
    """How often held steps are looked at."""
    is_ticking: bool
    """Whether they are looked at then only, and not when something is released."""
    smallest_first: bool
    """Whether held steps pass by size, and not by class, deadline and arrival."""

    def passes(self, job: Job, owner: str, cached_tokens: int, now: float) -> bool:
        """Return whether the job's session is live. `cached_tokens` of it are cached at `owner`."""
        ...

    def has_evicted(self, job: Job, owner: str, cached_tokens: int, now: float) -> bool:
        """Return whether a live session, of whose job `cached_tokens` are cached at `owner`, has lost too much: it is
        not live any more then."""
        ...

    def is_open(self, job: Job, worker: WorkerState) -> bool:
        """Return whether the session of a job that does not pass may become live at a worker."""
        ...

    def reserved(self, job: Job, now: float) -> None:
        """Note that the job runs at its worker."""
        ...

    def ended(self, job: Job, now: float) -> None:
        """Note that the job has ended."""
        ...

    def session_ended(self, session: str) -> None: ...

    def live_tokens(self, worker_id: str) -> int:
        """Return what live sessions need at a worker."""
        ...

    def limit(self, worker_id: str, capacity_tokens: int) -> int:
        """Return how much that may be."""
        ...

    def look(self, now: float, any_held: bool) -> None:
        """Note that held steps are looked at now."""
        ...


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


class WorkingSetGate:
    """The gate of `roost.store.working_set`, shared by all gateways."""

    is_ticking = False
    smallest_first = False

    def __init__(self, max_hold_seconds: float = DEFAULT_MAX_HOLD_SECONDS) -> None:
        self.max_hold_seconds = max_hold_seconds
        self.look_seconds = LOOK_SECONDS
        self.working_set = WorkingSet()
        self._capacity: dict[str, int] = {}
        self._any_held = False

    def passes(self, job: Job, owner: str, cached_tokens: int, now: float) -> bool:
        """A session stays live while its step waits, as attempts are renewed."""
        self.working_set.expire(_ms(now))
        if job.session not in self.working_set.live or self.has_evicted(job, owner, cached_tokens, now):
            return False
        self.working_set.renew(job.session, _ms(now + DEFAULT_QUEUE_TIMEOUT_SECONDS) + IDLE_MS)
        return True

    def has_evicted(self, job: Job, owner: str, cached_tokens: int, now: float) -> bool:
        live = self.working_set.live.get(job.session)
        is_over = self.working_set.is_over(owner, self._capacity.get(owner, 0))
        if not live or live.worker != owner or not is_evicted(job.kept_tokens, cached_tokens, is_over=is_over):
            return False
        self.working_set.remove(job.session)
        self._observe(job, cached_tokens, now)
        return True

    def is_open(self, job: Job, worker: WorkerState) -> bool:
        return self.working_set.admits(worker.worker_id, _footprint(job), worker.lease.capacity_tokens)

    def reserved(self, job: Job, now: float) -> None:
        live = self.working_set.live.get(job.session)
        promised = live is not None and live.worker == job.worker
        self.working_set.put(job.session, job.worker, _footprint(job), _ms(now) + IDLE_MS, promised=promised)

    def ended(self, job: Job, now: float) -> None:
        """A step that runs renews its session's time; one that has ended begins it, or ends it if it has computed most
        of its log again."""
        live = self.working_set.live.get(job.session)
        if live is not None and live.promised:
            self._observe(job, job.cached_tokens, now)
            if is_mostly_lost(job.kept_tokens, job.cached_tokens):
                self.working_set.remove(job.session)
                return
        self.working_set.put(job.session, job.worker, _footprint(job), _ms(now) + IDLE_MS)

    def session_ended(self, session: str) -> None:
        self.working_set.remove(session)

    def live_tokens(self, worker_id: str) -> int:
        return self.working_set.tokens(worker_id)

    def limit(self, worker_id: str, capacity_tokens: int) -> int:
        self._capacity[worker_id] = capacity_tokens
        return self.working_set.target.limit(capacity_tokens)

    def look(self, now: float, any_held: bool) -> None:
        self.working_set.expire(_ms(now))
        self._any_held = any_held

    def _observe(self, job: Job, cached_tokens: int, now: float) -> None:
        lost = max(0, job.kept_tokens - 1 - cached_tokens)
        self.working_set.target.observe(job.kept_tokens, lost, _ms(now), held=self._any_held)


def _footprint(job: Job) -> Footprint:
    return footprint(job.total_tokens, job.prefix if job.shared_tokens else "", job.shared_tokens, "", 0)


class StaticGate:
    """At most so many sessions at a worker, each from its first step until it ends."""

    is_ticking = False
    smallest_first = False

    def __init__(self, sessions: int, max_hold_seconds: float = float("inf")) -> None:
        self.max_hold_seconds = max_hold_seconds
        self.look_seconds = LOOK_SECONDS
        self._most = sessions
        self._workers: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def passes(self, job: Job, owner: str, cached_tokens: int, now: float) -> bool:
        return job.session in self._workers

    def has_evicted(self, job: Job, owner: str, cached_tokens: int, now: float) -> bool:
        return False

    def is_open(self, job: Job, worker: WorkerState) -> bool:
        return self._counts[worker.worker_id] < self._most

    def reserved(self, job: Job, now: float) -> None:
        self.session_ended(job.session)
        self._workers[job.session] = job.worker
        self._counts[job.worker] += 1

    def ended(self, job: Job, now: float) -> None: ...

    def session_ended(self, session: str) -> None:
        if session in self._workers:
            self._counts[self._workers.pop(session)] -= 1

    def live_tokens(self, worker_id: str) -> int:
        return self._counts[worker_id]

    def limit(self, worker_id: str, capacity_tokens: int) -> int:
        return self._most

    def look(self, now: float, any_held: bool) -> None: ...


@dataclass(slots=True)
class _Bound:
    worker: str
    tokens: int
    idle_since: float | None = None
    """None while a step runs."""


class TickingGate:
    """llm-d's session gate, as far as its public measurement describes it: every bound session counts against its
    worker's KV, idle or not, until it has been idle for 30 s. Every 5 s idle sessions are paused where these are too
    many, the largest first, and held steps pass, the smallest first, where there is room; after 1,800 s they pass
    anyway."""

    is_ticking = True
    smallest_first = True
    IDLE_SECONDS = 30.0

    def __init__(self, max_hold_seconds: float = 1800.0) -> None:
        self.max_hold_seconds = max_hold_seconds
        self.look_seconds = 5.0
        self._bound: dict[str, _Bound] = {}
        self._tokens: Counter[str] = Counter()
        self._capacity: dict[str, int] = {}

    def passes(self, job: Job, owner: str, cached_tokens: int, now: float) -> bool:
        return job.session in self._bound

    def has_evicted(self, job: Job, owner: str, cached_tokens: int, now: float) -> bool:
        return False

    def is_open(self, job: Job, worker: WorkerState) -> bool:
        name = worker.worker_id
        self._capacity[name] = worker.lease.capacity_tokens
        return self._tokens[name] + job.total_tokens <= worker.lease.capacity_tokens or not self._tokens[name]

    def reserved(self, job: Job, now: float) -> None:
        self.session_ended(job.session)
        self._bound[job.session] = _Bound(job.worker, job.total_tokens)
        self._tokens[job.worker] += job.total_tokens

    def ended(self, job: Job, now: float) -> None:
        self._bound[job.session].idle_since = now

    def session_ended(self, session: str) -> None:
        bound = self._bound.pop(session, None)
        if bound is not None:
            self._tokens[bound.worker] -= bound.tokens

    def live_tokens(self, worker_id: str) -> int:
        return self._tokens[worker_id]

    def limit(self, worker_id: str, capacity_tokens: int) -> int:
        return capacity_tokens

    def look(self, now: float, any_held: bool) -> None:
        idle = [(bound.tokens, name, bound) for name, bound in self._bound.items() if bound.idle_since is not None]
        for _, name, bound in sorted(idle, key=lambda row: row[:2], reverse=True):
            over = self._tokens[bound.worker] > self._capacity.get(bound.worker, self._tokens[bound.worker])
            assert bound.idle_since is not None, "only idle sessions are paused"
            if over or now - bound.idle_since >= self.IDLE_SECONDS:
                self.session_ended(name)


GATES: dict[str, Callable[[], Gate]] = {"working-set": WorkingSetGate, "gate": TickingGate}
STATIC = "static"
NAMES = (NONE, f"{STATIC}:N", *GATES)


def gate_factory(name: str) -> Callable[[], Gate] | None:
    """Return what makes the gate, or None for no gate. Raise ValueError when there is no such gate."""
    if name == NONE:
        return None
    kind, _, number = name.partition(":")
    if kind == STATIC and number.isdecimal() and int(number) > 0:
        return lambda: StaticGate(int(number))
    if name not in GATES:
        raise ValueError(f"no admission {name}; there are {', '.join(NAMES)}, with N sessions at a worker")
    return GATES[name]
