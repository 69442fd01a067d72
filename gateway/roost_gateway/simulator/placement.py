"""The simulated gateway: gives each step its worker, or lets it wait. Pure.

What is decided, production's classes decide: `WorkerIndex` and `choice` where a step goes, `AdmissionQueue` who waits
and who is next. This module is the ledger between them, as `proto/roost/store/scripts` keeps it in Redis: a reservation
per running step, and the rule that nobody passes a step that waits. Workers' figures are always up to date here, where
a gateway reads them twice a second.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from roost.contract.lease import WorkerLease
from roost_gateway.admission.admission_queue import AdmissionQueue, step_class
from roost_gateway.admission.waiting_line import Ticket
from roost_gateway.routing.choice import Room, StepNeed, WorkerState, offers, standing
from roost_gateway.routing.worker_index import WorkerIndex
from roost_gateway.simulator.job import Job

LINE = ""
"""All steps can be served by all workers."""
STEP_DEADLINE_SECONDS = 600.0
"""After a step's arrival; it orders the line, and no step is ended by it."""


class Placement:
    """Reservations at workers, and the steps that wait for one."""

    def __init__(self, leases: Iterable[WorkerLease]) -> None:
        self._index = WorkerIndex(map(WorkerState, leases))
        self._queue = AdmissionQueue()
        self._waiting: dict[Ticket, Job] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def place(self, job: Job, owner: str, cached_tokens: int, now: float) -> bool:
        """Reserve at the owner if it has the session cached and room, else at the worker of least cost; set the job's
        `worker`. Return False when there is no room: the job waits then.

        Raise QueueFullError.
        """
        if not self._waiting:
            at_owner = cached_tokens > 0 and self._reserve_at(job, self._index.states[owner])
            if at_owner or self._reserve_at_best(job, owner, cached_tokens):
                self._placed(job, now)
                return True
        priority = step_class(0, (0,), continuation=job.continuation)
        ticket = Ticket(job.tenant, priority, job.continuation, now, now + STEP_DEADLINE_SECONDS, LINE)
        self._queue.push(ticket, 0)
        self._waiting[ticket] = job
        job.ticket = ticket
        return False

    def give_up(self, job: Job) -> float:
        """Take a job out of the line. Return after how many seconds its client should try again."""
        assert job.ticket is not None, "a job gives up that does not wait"
        self._queue.remove(job.ticket)
        del self._waiting[job.ticket]
        job.ticket = None
        return self._queue.retry_seconds()

    def release(self, job: Job, waiting: int) -> None:
        """Give back what a job that has ended had reserved. `waiting` is how many jobs wait at its worker now."""
        self._queue.ended(job.tenant)
        state = self._index.states[job.worker]
        lease = state.lease if state.lease.waiting == waiting else replace(state.lease, waiting=waiting)
        tokens, attempts = state.reserved_tokens - job.reserved_tokens, state.reserved_attempts - 1
        self._index.put(WorkerState(lease, tokens, attempts))

    def admit_next(self, cached: Callable[[Job], tuple[str, int]], now: float) -> Job | None:
        """Reserve for the next waiting job. Return None when no job waits, or when it has no room.

        `cached` returns a job's owner, and how many of its tokens that has cached.
        """
        ticket = self._queue.first(LINE, now)
        if ticket is None:
            return None
        job = self._waiting[ticket]
        if not self._reserve_at_best(job, *cached(job)):
            return None
        self._queue.admit(ticket, now)
        del self._waiting[ticket]
        job.ticket = None
        self._placed(job, now)
        return job

    def _reserve_at_best(self, job: Job, owner: str, cached_tokens: int) -> bool:
        log_tokens = min(job.kept_tokens, job.prompt_tokens)
        cached = {owner: cached_tokens} if cached_tokens else {}
        need = StepNeed(job.session, "", log_tokens, job.total_tokens - log_tokens, cached, owner)
        choice = self._index.choose(need)
        return choice is not None and choice.may_be_granted and self._reserve_at(job, choice.worker)

    def _reserve_at(self, job: Job, worker: WorkerState) -> bool:
        tokens = min(job.total_tokens, worker.lease.capacity_tokens)
        if not offers(Room.QUEUE, standing(worker), tokens):
            return False
        job.worker, job.reserved_tokens = worker.worker_id, tokens
        reserved = worker.reserved_tokens + tokens
        self._index.put(WorkerState(worker.lease, reserved, worker.reserved_attempts + 1))
        return True

    def _placed(self, job: Job, now: float) -> None:
        job.placed = now
        self._queue.started(job.tenant)
