"""The attempts that wait for a worker in one gateway, in lines of attempts that the same workers can serve."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from roost.contract.events import Queued
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.why import WaitReason
from roost.store.entry import Reserved
from roost.store.working_set import HELD
from roost_gateway.admission.admission_queue import DEFAULT_RETRY_SECONDS, AdmissionQueue, QueueFullError
from roost_gateway.admission.waiting_line import Ticket
from roost_gateway.routing.choice import WorkerState
from roost_gateway.step.attempt import StepAttempt


@dataclass(slots=True, eq=False)
class PlacementWaiter:
    """An attempt that waits; `worker` resolves to the worker at which its tokens were reserved."""

    attempt: StepAttempt
    ticket: Ticket
    entered_at: float
    """When it entered the line, in seconds of `time.monotonic`."""
    was_held: bool = False
    """Whether the gate has held it, which it may for `max_hold_seconds`, also when room is short in the end."""
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
        self.revision = name.removeprefix(HELD)
        self.answer: Reserved | None = None
        """What the store answered last to an attempt that it let wait."""
        self.timer: asyncio.TimerHandle | None = None
        """Goes off when the time of a live session is over."""
        self.lock = asyncio.Lock()
        self.waiters: dict[Ticket, PlacementWaiter] = {}
        self.entered: list[PlacementWaiter] = []
        """Attempts that Begin may have put among the store's waiters since the line was last pumped."""
        self.first: PlacementWaiter | None = None
        """The attempt that waits in the store."""
        self.pump: asyncio.Task[None] | None = None
        self.again = False
        """Whether the pump has to look once more."""

    @property
    def is_held(self) -> bool:
        """Whether its attempts wait because the gate is closed to the first of them."""
        return self.answer is not None and self.answer.held

    def set_timer(self, seconds: float, action: Callable[[], None]) -> None:
        """Does something once so many seconds are over, and not what was to be done before."""
        self.stop_timer()
        self.timer = asyncio.get_running_loop().call_later(seconds, action)

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


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
        call, now = attempt.call, time.monotonic()
        since = attempt.began_at if attempt.has_passed_gate else now
        ticket = Ticket(call.tenant, attempt.priority, attempt.continuation, since, call.deadline, line.name)
        try:
            self.queue.push(ticket, len(self.queue) + 1 if attempt.keeps_place else attempt.pool.queue_limit)
        except QueueFullError as full:
            raise Refused(
                Reason.QUEUE_FULL,
                f"{full}; come back later, or raise admission.queueLimit",
                retry_seconds=full.retry_seconds,
            ) from None
        attempt.enters_line(since)
        waiter = line.waiters[ticket] = PlacementWaiter(attempt, ticket, now)
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

    def lengths(self) -> list[tuple[float, dict[str, str]]]:
        """How many attempts wait, with the labels of a gauge."""
        return [(count, {"pool": self.pool, "class": name}) for name, count in self.queue.waiting_by_class()]

    def held(self) -> tuple[str, int, int]:
        """The pool, and how many attempts the gate holds, and tokens that these need."""
        held = [waiter for line in self.lines.values() if line.is_held for waiter in line.waiters.values()]
        return self.pool, len(held), sum(waiter.attempt.need.tokens for waiter in held)


def queued(waiting: PoolQueue, line: Line, waiter: PlacementWaiter, reason: WaitReason) -> Queued:
    """What the client of an attempt is sent that waits for `reason`."""
    attempt, now = waiter.attempt, time.monotonic()
    ahead = sum(waiting.queue.ahead(waiter.ticket, now))
    estimate = waiting.queue.estimate_seconds(line.name, ahead, now)
    event = Queued(ahead, reason, attempt.continuation, estimate)
    if reason is not WaitReason.WORKING_SET or line.answer is None:
        return event
    longest = attempt.pool.max_hold_seconds
    return replace(
        event,
        estimate_seconds=min(estimate or longest, longest),
        live_tokens=line.answer.live_tokens,
        live_limit_tokens=line.answer.live_limit,
    )


class LostLogError(Exception):
    """Too much of the log of an attempt's live session was evicted while it waited for room. It goes to the gate."""


class HeldError(Exception):
    """The gate has held an attempt for as long as it may."""

    def __init__(self, event: Queued, seconds: float) -> None:
        super().__init__(f"held for {seconds:.0f} s")
        self._event = event

    def refusal(self) -> Refused:
        """For roles that do not let such steps in."""
        return Refused(
            Reason.QUEUE_TIMEOUT,
            f"{self} at the gate, {self._event.explanation}; come back later, add workers, or set onHold: Admit",
            retry_seconds=max(DEFAULT_RETRY_SECONDS, self._event.estimate_seconds),
        )
