"""The simulated gateways: give each step its worker, or let it wait. Pure.

What is decided, production's classes decide: `WorkerIndex` and `choice` where a step goes, `AdmissionQueue` who waits
and who is next, `roost.store.service` whose tenant has had the least, `roost.store.working_set` which sessions are let
in. This module is the ledger between them, as `proto/roost/store/scripts` keeps it in Redis: a reservation per running
step, and the rule that nobody passes a step that waits. Each gateway has a queue of its own, and the first of each is
in the ledger's line. Workers' figures are always up to date here, where a gateway reads them twice a second.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from roost.contract.lease import WorkerLease
from roost.store.rules import AGING_SECONDS
from roost.store.working_set import HELD
from roost_gateway.admission.admission_queue import AdmissionQueue, QueueFullError, step_class
from roost_gateway.admission.waiting_line import Ticket
from roost_gateway.routing import gate as routing_gate
from roost_gateway.routing.choice import Choice, Room, StepNeed, WorkerState, offers, ring_place, standing
from roost_gateway.routing.worker_index import WorkerIndex
from roost_gateway.simulator.fairness import Fairness
from roost_gateway.simulator.gates import Gate
from roost_gateway.simulator.job import Job

LINE = ""
"""All steps can be served by all workers."""
STEP_DEADLINE_SECONDS = 600.0
"""After a step's arrival; it orders the line, and no step is ended by it."""


class Home(NamedTuple):
    """The worker of a session's last step, and what it has cached of the session's tokens."""

    worker_id: str
    cached_tokens: int
    """On its device."""
    warm_tokens: int
    """Behind those, in host memory."""


NO_HOME = Home("", 0, 0)


class Placement:
    """Reservations at workers, and the steps that wait for one."""

    def __init__(
        self,
        leases: Iterable[WorkerLease],
        held: Callable[[Job], None],
        gate: Gate | None,
        gateways: int,
        fairness: Fairness,
    ) -> None:
        """`held` is called with a job that is held after it has waited for room."""
        self._index = WorkerIndex(map(WorkerState, leases))
        self._queues = [AdmissionQueue() for _ in range(gateways)]
        self._waiting: dict[Ticket, Job] = {}
        self.gate, self._held = gate, held
        self._fairness = fairness
        self.held = 0
        """How many steps wait at the gate."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def place(self, job: Job, home: Home, now: float) -> bool:
        """Reserve at the home if it has the session cached and room, else at the worker of least cost; set the job's
        `worker`. Return False when there is no room, or the gate is closed to it: the job waits then.

        Raise QueueFullError.
        """
        if self.gate is not None and not job.forced:
            job.held = not self.gate.passes(job, home.worker_id, home.cached_tokens + home.warm_tokens, now)
        self._fairness.comes(job, now)
        self._queue_of(job).step_came(job.tenant, self._fairness.counter(job.tenant))
        none_before = not self._waiting if job.held else self.waiting == self.held
        if none_before and self._reserve_now(job, home, now):
            self._placed(job, now)
            return True
        try:
            self._queue(job, now)
        except QueueFullError:
            self._go(job, now)
            raise
        return False

    def give_up(self, job: Job, now: float) -> float:
        """Take a job out of the line. Return after how many seconds its client should try again."""
        self._take_out(job)
        self._go(job, now)
        return self._queue_of(job).retry_seconds()

    def _take_out(self, job: Job) -> None:
        assert job.ticket is not None, "a job is taken out that does not wait"
        self._queue_of(job).remove(job.ticket)
        self._leave(job)

    def _go(self, job: Job, now: float) -> None:
        """Forget a job that waits no longer, and was given no worker."""
        self._fairness.leaves(job, now)
        self._queue_of(job).step_left(job.tenant)

    def release(self, job: Job, waiting: int, now: float) -> None:
        """Give back what a job that has ended had reserved. `waiting` is how many jobs wait at its worker now."""
        self._fairness.ends(job, now)
        self._queue_of(job).learn(job.tenant, self._fairness.counter(job.tenant))
        self._queue_of(job).step_left(job.tenant)
        state = self._index.states[job.worker]
        lease = state.lease if state.lease.waiting == waiting else replace(state.lease, waiting=waiting)
        self._put(lease, state.reserved_tokens - job.reserved_tokens, state.reserved_attempts - 1)

    def step_ended(self, job: Job, now: float) -> None:
        if self.gate is not None:
            self.gate.ended(job, now)

    def session_ended(self, session: str) -> None:
        if self.gate is not None:
            self.gate.session_ended(session)

    def admit_next(self, home_of: Callable[[Job], Home], now: float, *, looks: bool) -> Job | None:
        """Reserve for the next waiting job. Return None when no job waits, or when it has no room, or is held.

        `looks` says that it is time to look at held steps.
        """
        while (job := self._next(now, looks=looks)) is not None and self._has_lost_log(job, home_of(job), now):
            self._take_out(job)
            job.held, job.lost_log = True, True
            self._queue(job, now)
            self._held(job)
        if job is None or not self._reserve_at_best(job, home_of(job), now):
            return None
        assert job.ticket is not None, "it waits"
        self._queue_of(job).admit(job.ticket, now)
        self._leave(job)
        self._placed(job, now)
        return job

    def _next(self, now: float, *, looks: bool) -> Job | None:
        """Return the job that is served next, or None."""
        may_pass = self.gate is not None and (looks or not self.gate.is_ticking)
        line = HELD if self.held == self.waiting and may_pass else LINE
        ticket = self._smallest() if self.gate and self.gate.smallest_first and line == HELD else self._first(line, now)
        return None if ticket is None else self._waiting[ticket]

    def _has_lost_log(self, job: Job, home: Home, now: float) -> bool:
        """Return whether too much of a live session's log was evicted while its job waited."""
        if self.gate is None or job.held or job.forced or job.lost_log:
            return False
        return self.gate.has_evicted(job, home.worker_id, home.cached_tokens + home.warm_tokens, now)

    def _queue(self, job: Job, now: float) -> None:
        priority = step_class(0, (0,), continuation=job.continuation)
        since, line = job.submitted if job.forced else now, HELD if job.held else LINE
        ticket = Ticket(job.tenant, priority, job.continuation, since, now + STEP_DEADLINE_SECONDS, line)
        self._queue_of(job).push(ticket, 0)
        self._waiting[ticket] = job
        self.held += job.held
        job.ticket = ticket
        if job.held_since is None and job.held:
            job.held_since = now

    def _queue_of(self, job: Job) -> AdmissionQueue:
        return self._queues[ring_place(job.session) % len(self._queues)]

    def _first(self, line: str, now: float) -> Ticket | None:
        """The first of the ledger's line: of the first steps of all gateways, by class, by their tenants' counters, and
        by when they came."""
        firsts = [first for queue in self._queues if (first := self._first_of(queue, line, now)) is not None]
        return min(firsts, key=lambda first: self._place(first, now), default=None)

    def _first_of(self, queue: AdmissionQueue, line: str, now: float) -> Ticket | None:
        """The first step of a gateway, once the ledger's answers have corrected the counters that it knows."""
        first = queue.first(line, now)
        while first is not None:
            queue.learn(first.tenant, self._fairness.counter(first.tenant))
            before, first = first, queue.first(line, now)
            if first is before:
                break
        return first

    def _place(self, first: Ticket, now: float) -> tuple[int, int, float]:
        level, _ = first.level(now)
        return level, self._fairness.counter(first.tenant), first.priority * AGING_SECONDS + first.enqueued

    def _smallest(self) -> Ticket | None:
        return min(self._waiting, key=lambda ticket: self._waiting[ticket].total_tokens, default=None)

    def _leave(self, job: Job) -> None:
        assert job.ticket is not None, "a job leaves that does not wait"
        del self._waiting[job.ticket]
        self.held -= job.ticket.line == HELD
        job.ticket = None

    def _reserve_now(self, job: Job, home: Home, now: float) -> bool:
        at_home = home.cached_tokens > 0 and self._reserve_at(job, self._index.states[home.worker_id])
        return at_home or self._reserve_at_best(job, home, now)

    def _reserve_at_best(self, job: Job, home: Home, now: float) -> bool:
        owner, log_tokens = home.worker_id, min(job.kept_tokens, job.prompt_tokens)
        cached = {owner: home.cached_tokens} if home.cached_tokens else {}
        warm = {owner: home.warm_tokens} if home.warm_tokens else {}
        new = job.total_tokens - log_tokens
        need = StepNeed(job.session, "", log_tokens, new, cached, owner, warm, job.shared_tokens)
        choice = self._choose_held(job, need, now) if job.held else self._index.choose(need)
        return choice is not None and choice.may_be_granted and self._reserve_at(job, choice.worker)

    def _choose_held(self, job: Job, need: StepNeed, now: float) -> Choice | None:
        assert self.gate is not None, "nothing is held without a gate"
        for worker in list(self._index.states.values()):
            self._put(worker.lease, worker.reserved_tokens, worker.reserved_attempts)
        if self.gate.smallest_first:  # it resumes wherever there is room
            closed = {name for name, worker in self._index.states.items() if not self.gate.is_open(job, worker)}
            return self._index.choose(need, closed)
        waited = now - job.held_since if job.held_since is not None else 0.0
        return routing_gate.choose(self._index, need, frozenset(), waited)

    def _reserve_at(self, job: Job, worker: WorkerState) -> bool:
        tokens = min(job.total_tokens, worker.lease.capacity_tokens)
        if job.held and (self.gate is None or not self.gate.is_open(job, worker)):
            return False
        if not offers(Room.QUEUE, standing(worker), tokens):
            return False
        job.worker, job.reserved_tokens = worker.worker_id, tokens
        self._put(worker.lease, worker.reserved_tokens + tokens, worker.reserved_attempts + 1)
        return True

    def _put(self, lease: WorkerLease, tokens: int, attempts: int) -> None:
        if self.gate is None:
            self._index.put(WorkerState(lease, tokens, attempts))
            return
        name, capacity = lease.worker_id, lease.capacity_tokens
        live, limit = self.gate.live_tokens(name), self.gate.limit(name, capacity)
        self._index.put(WorkerState(lease, tokens, attempts, live, limit))

    def _placed(self, job: Job, now: float) -> None:
        job.placed = now
        if job.held_since is not None and not job.forced:
            job.held_seconds = max(job.held_seconds, now - job.held_since)
        job.held = False
        self._fairness.reserves(job, now)
        self._queue_of(job).learn(job.tenant, self._fairness.counter(job.tenant))
        if self.gate is not None:
            self.gate.reserved(job, now)
