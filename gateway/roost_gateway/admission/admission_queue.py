"""A bounded queue of the steps that wait for room, and the order in which they are served. Pure.

Steps that need different revisions of the model are served by different workers, so each revision has a line of its
own: no step waits behind a step that other workers serve. The bound and the tenants' counters are those of the pool.

Order of a line (`waiting_line.py`): class (continuations of live sessions before new sessions, then the role's
priority), then how near the deadline is, then fair share (the tenant with the least counter of `roost.store.service`),
then arrival. A lower class overtakes a higher one only by aging: `AGING_SECONDS` of waiting are worth one class, up to
the best class there is, within which age does not count.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from roost_gateway.admission.waiting_line import Ahead, KnownCounters, Ticket, WaitingLine

DEFAULT_QUEUE_LIMIT = 4096
"""Bound of a queue whose pool sets none."""
DEFAULT_RETRY_SECONDS = 1.0
_WAITS_REMEMBERED = 16


def step_class(priority: int, priorities: Sequence[int], *, continuation: bool) -> int:
    """Class of a step, lower first: continuations before new sessions, then by the rank of the role's priority among
    those of the pool's roles, the highest first. All gateways of a pool come to the same classes."""
    levels = {*priorities, priority}
    level = sum(other > priority for other in levels)
    return level if continuation else len(levels) + level


class QueueFullError(Exception):
    """The queue is full. `retry_seconds` is when a place may be free."""

    def __init__(self, limit: int, retry_seconds: float) -> None:
        super().__init__(f"{limit} steps wait already")
        self.limit = limit
        self.retry_seconds = retry_seconds


class AdmissionQueue:
    """The waiting steps of one pool in one gateway, in a line for each model revision, and its tenants' counters."""

    def __init__(self) -> None:
        self._lines: dict[str, WaitingLine] = {}
        self._length = 0
        self._new = 0
        self._arrivals = 0
        self._counters = KnownCounters()
        self._recent_waits: deque[float] = deque(maxlen=_WAITS_REMEMBERED)
        self._served: dict[str, deque[float]] = {}
        """Line -> when its last steps were served."""

    def __len__(self) -> int:
        return self._length

    def push(self, ticket: Ticket, limit: int) -> None:
        """Adds a waiting step; `limit` 0 means the default bound. Raises QueueFullError."""
        limit = limit or DEFAULT_QUEUE_LIMIT
        if self._length >= limit:
            raise QueueFullError(limit, self.retry_seconds())
        self._arrivals += 1
        self._length += 1
        self._new += not ticket.continuation
        self._line(ticket.line).push(ticket, self._arrivals)

    def remove(self, ticket: Ticket) -> None:
        """Takes a step out; does nothing when it does not wait."""
        line = self._lines.get(ticket.line)
        if line is None or not line.remove(ticket):
            return
        self._length -= 1
        self._new -= not ticket.continuation
        if not line:
            del self._lines[ticket.line]

    def admit(self, ticket: Ticket, now: float) -> None:
        """Takes a step out because it was served."""
        self.remove(ticket)
        self._recent_waits.append(now - ticket.enqueued)
        self._served.setdefault(ticket.line, deque(maxlen=_WAITS_REMEMBERED)).append(now)

    def step_came(self, tenant: str, counter: int) -> None:
        """Keeps the tenant's counter until each of its steps that came has left. Call it before `push`."""
        self._counters.step_came(tenant, counter)
        self._counter_changed(tenant)

    def step_left(self, tenant: str) -> None:
        """Ends what `step_came` began, once the step waits no longer."""
        self._counters.step_left(tenant)
        self._counter_changed(tenant)

    def learn(self, tenant: str, counter: int) -> None:
        """Takes a newer counter of a tenant; does nothing when none of its steps is here."""
        self._counters.learn(tenant, counter)
        self._counter_changed(tenant)

    def first(self, line: str, now: float) -> Ticket | None:
        """The step of a line that is served next, or None. `now` must not go back."""
        return self._lines[line].first(now) if line in self._lines else None

    def set_aside(self, ticket: Ticket) -> None:
        """Lets the others of its line go first until `bring_back`, because no worker may serve it now."""
        self._lines[ticket.line].set_aside(ticket)

    def bring_back(self, line: str) -> None:
        if line in self._lines:
            self._lines[line].bring_back()

    def ahead(self, ticket: Ticket, now: float) -> Ahead:
        """How many steps of its line would be served before `ticket`, whether it waits or not."""
        return self._lines[ticket.line].ahead(ticket, now) if ticket.line in self._lines else Ahead(0, 0)

    def estimate_seconds(self, line: str, ahead: int, now: float) -> float:
        """How long a step of a line may wait that `ahead` others go before, as steps were served of late; 0 when none
        was."""
        served = self._served.get(line)
        return (ahead + 1) * (now - served[0]) / len(served) if served else 0.0

    def retry_seconds(self) -> float:
        """When a place may be free, in seconds: the mean wait of the steps served last."""
        waits = self._recent_waits
        return max(DEFAULT_RETRY_SECONDS, sum(waits) / len(waits)) if waits else DEFAULT_RETRY_SECONDS

    def waiting_by_class(self) -> Iterator[tuple[str, int]]:
        """Counts of waiting continuations and new sessions."""
        yield "continuation", self._length - self._new
        yield "new", self._new

    def _line(self, name: str) -> WaitingLine:
        return self._lines.setdefault(name, WaitingLine(self._counters))

    def _counter_changed(self, tenant: str) -> None:
        for line in self._lines.values():
            line.counter_changed(tenant)
