"""Who goes first when there is no room for all. Pure: a bounded queue and its order.

Order of the waiting: class (continuations of live sessions before new ones, then the role's priority), then how near
the deadline is, then fair share (the tenant with the fewest running steps, then the one served longest ago), then
arrival. A lower class overtakes a higher one only by aging: `AGING_SECONDS` of waiting are worth one class.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2

AGING_SECONDS = 10.0
"""Waiting that is worth one class, in the queue of a gateway as among the store's waiters."""
DEFAULT_QUEUE_LIMIT = 4096
"""Bound of a queue whose pool gives none."""
DEFAULT_RETRY_SECONDS = 1.0
_FAR = 60


def step_class(priority: int, priorities: Sequence[int], *, continuation: bool) -> int:
    """Class of a step, lower first: continuations before new sessions, then by the rank of the role's priority among
    those of the pool's roles, the highest first. All gateways of a pool come to the same classes."""
    levels = {*priorities, priority}
    level = sum(other > priority for other in levels)
    return level if continuation else len(levels) + level


class QueueFullError(Exception):
    """The queue holds as many as it may. `retry_seconds` says when a place may be free."""

    def __init__(self, limit: int, retry_seconds: float) -> None:
        super().__init__(f"{limit} steps wait already")
        self.limit = limit
        self.retry_seconds = retry_seconds


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One waiting step. Times are seconds of one monotonic clock."""

    tenant: str
    priority: int
    """`step_class`."""
    continuation: bool
    enqueued: float
    deadline: float


class AdmissionQueue:
    """The waiting steps of one pool in one gateway, and what runs of each tenant."""

    def __init__(self) -> None:
        self._waiting: dict[Ticket, int] = {}
        self._arrivals = 0
        self._running: Counter[str] = Counter()
        self._served: dict[str, int] = {}
        self._services = 0
        self._recent_waits: list[float] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._waiting

    def push(self, ticket: Ticket, limit: int) -> None:
        """Takes a place; `limit` 0 means the default bound. Raises QueueFullError."""
        limit = limit or DEFAULT_QUEUE_LIMIT
        if len(self._waiting) >= limit:
            raise QueueFullError(limit, self.retry_seconds())
        self._arrivals += 1
        self._waiting[ticket] = self._arrivals

    def remove(self, ticket: Ticket) -> None:
        """Gives a place up; nothing happens when there was none."""
        self._waiting.pop(ticket, None)

    def admit(self, ticket: Ticket, now: float) -> None:
        """Takes a ticket out because it was served."""
        self.remove(ticket)
        self._recent_waits = [*self._recent_waits[-15:], now - ticket.enqueued]

    def started(self, tenant: str) -> None:
        """A step of the tenant runs, whether it waited or not."""
        self._running[tenant] += 1
        self._services += 1
        self._served[tenant] = self._services

    def ended(self, tenant: str) -> None:
        """A step of the tenant runs no more."""
        self._running[tenant] -= 1
        if self._running[tenant] <= 0:
            del self._running[tenant]
        if len(self._served) > 10_000:
            self._served = {name: self._served[name] for name in self._running if name in self._served}

    def order(self, now: float) -> list[Ticket]:
        """Everybody, first to be served first. It changes with each service and with time."""
        return sorted(self._waiting, key=lambda ticket: self._rank(ticket, now))

    def ahead(self, ticket: Ticket, now: float) -> int:
        """How many would be served before `ticket`, whether it has a place or not."""
        rank = self._rank(ticket, now)
        return sum(self._rank(other, now) < rank for other in self._waiting)

    def retry_seconds(self) -> float:
        """When a place may be free: as long as the last ones waited."""
        waits = self._recent_waits
        return max(DEFAULT_RETRY_SECONDS, sum(waits) / len(waits)) if waits else DEFAULT_RETRY_SECONDS

    def waiting_by_class(self) -> Iterator[tuple[str, int]]:
        """Counts of waiting continuations and new sessions."""
        new = sum(not ticket.continuation for ticket in self._waiting)
        yield "continuation", len(self._waiting) - new
        yield "new", new

    def _rank(self, ticket: Ticket, now: float) -> tuple[int, int, int, int, int]:
        return (
            ticket.priority - int((now - ticket.enqueued) / AGING_SECONDS),
            _urgency(ticket.deadline - now),
            self._running[ticket.tenant],
            self._served.get(ticket.tenant, 0),
            self._waiting.get(ticket, self._arrivals + 1),
        )


def _urgency(left: float) -> int:
    """Deadlines by powers of two: of two equally near ones, fair share decides."""
    return min(_FAR, int(log2(left))) if left >= 1 else 0
