"""What waits in one gateway: steps that ask for a worker, in lines of those that the same workers can serve."""

import asyncio
import time
from dataclasses import dataclass, field
from math import inf

from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.records import Reservation
from roost_gateway.admission.admission_queue import AdmissionQueue, QueueFullError
from roost_gateway.admission.waiting_line import Ticket
from roost_gateway.routing.choice import StepNeed, WorkerState
from roost_gateway.step.attempts import LEASE_MS, HeldAttempt


@dataclass(slots=True, eq=False)
class Ask:
    """One step that wants a worker. Times are seconds of `time.monotonic`."""

    pool: PoolDocument
    held: HeldAttempt
    need: StepNeed
    tenant: str
    priority: int
    continuation: bool
    deadline: float
    registered: bool = False
    """Whether it may be among the store's waiters: Begin puts it there when the worker that it prefers has no room."""
    asked_at: float = -inf
    """When it last asked the store for room."""
    avoid: dict[str, float] = field(default_factory=dict)
    """Worker ids that this step avoids, and until when."""
    started: bool = False
    """A step that has begun waits until its deadline and is never refused for a full queue."""

    def excluded(self) -> frozenset[str]:
        now = time.monotonic()
        return frozenset(worker for worker, until in self.avoid.items() if until > now)

    def reservation(self, worker_id: str = "", tokens: int = 0) -> Reservation:
        """What to reserve at a worker; without one, what to give up."""
        return Reservation(
            pool=self.pool.pool,
            session_id=self.held.session_id,
            ref=self.held.ref,
            worker_id=worker_id,
            tokens=tokens,
            priority=self.priority,
            deadline_ms=max(1, int((self.deadline - time.monotonic()) * 1000)),
            lease_ms=LEASE_MS,
            revision=self.need.model_revision,
        )


@dataclass(slots=True, eq=False)
class Waiter:
    ask: Ask
    ticket: Ticket
    found: "asyncio.Future[WorkerState]"


class Line:
    """One line in this gateway. Steps reserve with the lock held, so that they reserve in their order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = asyncio.Lock()
        self.waiters: dict[Ticket, Waiter] = {}
        self.entered: list[Waiter] = []
        """Those that Begin may have put among the store's waiters, since the line was last pumped."""
        self.first: Waiter | None = None
        """The one that waits in the store."""
        self.pump: asyncio.Task[None] | None = None
        self.again = False


class PoolQueue:
    """What waits for one pool in this gateway."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.queue = AdmissionQueue()
        self.lines: dict[str, Line] = {}
        self.listener: asyncio.Task[None] | None = None

    def line(self, name: str) -> Line:
        return self.lines.setdefault(name, Line(name))

    def enter(self, ask: Ask, line: Line) -> Waiter:
        """Takes a place. Raises Refused: QUEUE_FULL."""
        ticket = Ticket(ask.tenant, ask.priority, ask.continuation, time.monotonic(), ask.deadline, line.name)
        try:
            self.queue.push(ticket, len(self.queue) + 1 if ask.started else ask.pool.queue_limit)
        except QueueFullError as full:
            raise _full(full) from None
        waiter = line.waiters[ticket] = Waiter(ask, ticket, asyncio.get_running_loop().create_future())
        if ask.registered:
            line.entered.append(waiter)
        return waiter

    def leave(self, line: Line, waiter: Waiter) -> None:
        self.queue.remove(waiter.ticket)
        line.waiters.pop(waiter.ticket, None)


def _full(full: QueueFullError) -> Refused:
    return Refused(
        Reason.QUEUE_FULL,
        f"{full}; come back later, or raise admission.queueLimit",
        retry_seconds=full.retry_seconds,
    )
