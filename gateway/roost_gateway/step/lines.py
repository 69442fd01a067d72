"""The attempts that wait for a worker in one gateway, in lines of attempts that the same workers can serve."""

import asyncio
import time
from dataclasses import dataclass, field

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_gateway.admission.admission_queue import AdmissionQueue, QueueFullError
from roost_gateway.admission.waiting_line import Ticket
from roost_gateway.routing.choice import WorkerState
from roost_gateway.step.attempt import StepAttempt


@dataclass(slots=True, eq=False)
class PlacementWaiter:
    """An attempt that waits; `worker` resolves to the worker at which its tokens were reserved."""

    attempt: StepAttempt
    ticket: Ticket
    worker: "asyncio.Future[WorkerState]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def admit(self, worker: WorkerState) -> None:
        if not self.worker.done():  # an attempt that was cancelled gives its reservation back when it ends
            self.worker.set_result(worker)

    def fail(self, error: Exception) -> None:
        """Ends the wait with an error, which the client gets."""
        if not self.worker.done():
            self.worker.set_exception(error)


class Line:
    """One line. Attempts reserve while they hold the lock, so that they reserve in order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = asyncio.Lock()
        self.waiters: dict[Ticket, PlacementWaiter] = {}
        self.entered: list[PlacementWaiter] = []
        """Attempts that Begin may have put among the store's waiters since the line was last pumped."""
        self.first: PlacementWaiter | None = None
        """The attempt that waits in the store."""
        self.pump: asyncio.Task[None] | None = None
        self.again = False
        """Whether the pump has to look once more."""


class PoolQueue:
    """The lines of one pool."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.queue = AdmissionQueue()
        self.lines: dict[str, Line] = {}
        self.listener: asyncio.Task[None] | None = None

    def line(self, name: str) -> Line:
        return self.lines.setdefault(name, Line(name))

    def enter(self, attempt: StepAttempt, line: Line) -> PlacementWaiter:
        """Adds an attempt to a line. Raises Refused: QUEUE_FULL."""
        call = attempt.call
        ticket = Ticket(call.tenant, attempt.priority, attempt.continuation, time.monotonic(), call.deadline, line.name)
        try:
            self.queue.push(ticket, len(self.queue) + 1 if attempt.has_begun else attempt.pool.queue_limit)
        except QueueFullError as full:
            raise Refused(
                Reason.QUEUE_FULL,
                f"{full}; come back later, or raise admission.queueLimit",
                retry_seconds=full.retry_seconds,
            ) from None
        waiter = line.waiters[ticket] = PlacementWaiter(attempt, ticket)
        if attempt.registered:
            line.entered.append(waiter)
        return waiter

    def leave(self, line: Line, waiter: PlacementWaiter) -> None:
        self.queue.remove(waiter.ticket)
        line.waiters.pop(waiter.ticket, None)

    def fail(self, line: Line, waiter: PlacementWaiter, error: Exception) -> None:
        """Takes an attempt out of its line, and ends its wait with an error."""
        self.leave(line, waiter)
        waiter.fail(error)

    def fail_all(self, line: Line, error: Exception) -> None:
        for waiter in list(line.waiters.values()):
            self.fail(line, waiter, error)
