"""Waiting steps in the order in which they are served. Pure; O(log n) for each change and each lookup.

A step's place depends on values that change while it waits: its class, by aging; how near its deadline is; and its
tenant's counter. So steps are kept in groups by tenant and *level* (class and urgency), each in order of arrival. A
heap holds the first step of each tenant's best group; outdated entries are dropped when they reach the top. A timetable
says when each step changes its level, which is seldom: once per `AGING_SECONDS`, and with each halving of the time that
is left.
"""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import inf, log2, nextafter
from typing import NamedTuple

from roost.store.rules import AGING_SECONDS, aged_class

_FAR = 60
_SLACK = 64

Level = tuple[int, int]
"""Class and urgency, lower first."""
Entry = tuple[int, int, int, int, str]
"""Class, urgency, the tenant's counter, arrival of the tenant's first, tenant."""


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One waiting step. Times are seconds of one monotonic clock."""

    tenant: str
    priority: int
    """`admission.step_class`."""
    continuation: bool
    enqueued: float
    deadline: float
    line: str = ""
    """Model revision that the step needs; empty: any."""

    def level(self, now: float) -> Level:
        return aged_class(self.priority, int((now - self.enqueued) / AGING_SECONDS)), _urgency(self.deadline - now)

    def next_change(self, now: float) -> float:
        """When the level changes next, or may."""
        periods = int((now - self.enqueued) / AGING_SECONDS)
        aging = self.enqueued + AGING_SECONDS * (periods + 1) if periods < self.priority else inf
        urgency = _urgency(self.deadline - now)
        return max(min(aging, self.deadline - 2.0**urgency if urgency else inf), nextafter(now, inf))


class KnownCounters:
    """The counters (`roost.store.service`) of the tenants of which this gateway has steps, as the store answered last.
    One may be out of date, since other gateways have steps of the tenant too."""

    def __init__(self) -> None:
        self._steps: Counter[str] = Counter()
        self._counters: dict[str, int] = {}

    def of(self, tenant: str) -> int:
        """0 for a tenant of which there is no step."""
        return self._counters.get(tenant, 0)

    def step_came(self, tenant: str, counter: int) -> None:
        self._steps[tenant] += 1
        self._counters[tenant] = counter

    def step_left(self, tenant: str) -> None:
        self._steps[tenant] -= 1
        if not self._steps[tenant]:
            del self._steps[tenant], self._counters[tenant]

    def learn(self, tenant: str, counter: int) -> None:
        if tenant in self._counters:
            self._counters[tenant] = counter


class Ahead(NamedTuple):
    """How many steps of each kind are served before another one."""

    continuations: int
    new_sessions: int


@dataclass(slots=True)
class _Place:
    arrival: int
    level: Level
    aside: bool = False


@dataclass(slots=True)
class _Group:
    """Arrivals and tickets, in order. Arrivals are unique, so tickets are never compared."""

    steps: list[tuple[int, Ticket]] = field(default_factory=list)
    continuations: int = 0

    def before(self, arrival: int) -> int:
        return bisect_left(self.steps, arrival, key=lambda step: step[0])


@dataclass(slots=True)
class _Queue:
    """The steps of one tenant."""

    groups: dict[Level, _Group] = field(default_factory=dict)
    best: Level = (0, 0)
    """The lowest level of a group. Undefined without groups."""

    def group(self, level: Level) -> _Group:
        """Return the group of a level, which is created at its first step."""
        if level not in self.groups:
            self.best = min(self.best, level) if self.groups else level
            self.groups[level] = _Group()
        return self.groups[level]

    def drop(self, level: Level) -> None:
        del self.groups[level]
        if level == self.best and self.groups:
            self.best = min(self.groups)


class WaitingLine:
    """The steps that the same workers can serve."""

    def __init__(self, counters: KnownCounters) -> None:
        self._counters = counters
        self._places: dict[Ticket, _Place] = {}
        self._queues: defaultdict[str, _Queue] = defaultdict(_Queue)
        self._heap: list[Entry] = []
        self._timetable: list[tuple[float, int, Ticket]] = []
        self._aside: list[Ticket] = []

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._places

    def push(self, ticket: Ticket, arrival: int) -> None:
        """Arrivals are unique."""
        place = self._places[ticket] = _Place(arrival, ticket.level(ticket.enqueued))
        heappush(self._timetable, (ticket.next_change(ticket.enqueued), arrival, ticket))
        self._insert(ticket, place)
        if len(self._timetable) > 2 * len(self._places) + _SLACK:
            self._timetable = [row for row in self._timetable if self._is_here(row[2], row[1])]
            heapify(self._timetable)

    def remove(self, ticket: Ticket) -> bool:
        """Takes a step out. Returns False when it does not wait."""
        place = self._places.pop(ticket, None)
        if place is None:
            return False
        if not place.aside:
            self._take_out(ticket, place)
        return True

    def first(self, now: float) -> Ticket | None:
        """The step that is served next, of those that are not set aside, or None. `now` must not go back."""
        self._age(now)
        while self._heap:
            entry = self._heap[0]
            tenant = entry[-1]
            queue = self._queues.get(tenant)
            if queue is not None and entry == self._entry(tenant, queue):
                return queue.groups[queue.best].steps[0][1]
            heappop(self._heap)
        return None

    def set_aside(self, ticket: Ticket) -> None:
        """Lets others go first until `bring_back`; the place is kept."""
        place = self._places[ticket]
        if not place.aside:
            self._take_out(ticket, place)
            place.aside = True
            self._aside.append(ticket)

    def bring_back(self) -> None:
        for ticket in self._aside:
            place = self._places.get(ticket)
            if place is not None:
                place.aside = False
                self._insert(ticket, place)
        self._aside.clear()

    def counter_changed(self, tenant: str) -> None:
        """Takes a change of the tenant's counter."""
        if tenant in self._queues:
            self._offer(tenant, self._queues[tenant])

    def ahead(self, ticket: Ticket, now: float) -> Ahead:
        """How many steps go before `ticket`, whether it waits or not. O(groups), and the steps of its own group; there
        is a group for each tenant and level."""
        self._age(now)
        place = self._places.get(ticket)
        arrival = place.arrival if place else 2**62
        own = (*ticket.level(now), self._counters.of(ticket.tenant))
        count = continuations = 0
        for tenant, queue in self._queues.items():
            counter = self._counters.of(tenant)
            for level, group in queue.groups.items():
                if (*level, counter) < own:
                    count += len(group.steps)
                    continuations += group.continuations
                elif (*level, counter) == own:
                    before = group.before(arrival)
                    count += before
                    continuations += sum(step.continuation for _, step in group.steps[:before])
        return Ahead(continuations, count - continuations)

    def _age(self, now: float) -> None:
        due: list[Ticket] = []
        while self._timetable and self._timetable[0][0] <= now:
            _, arrival, ticket = heappop(self._timetable)
            if self._is_here(ticket, arrival):
                due.append(ticket)
        for ticket in due:
            place, level = self._places[ticket], ticket.level(now)
            heappush(self._timetable, (ticket.next_change(now), place.arrival, ticket))
            if level != place.level:
                if not place.aside:
                    self._take_out(ticket, place)
                place.level = level
                if not place.aside:
                    self._insert(ticket, place)

    def _is_here(self, ticket: Ticket, arrival: int) -> bool:
        place = self._places.get(ticket)
        return place is not None and place.arrival == arrival

    def _insert(self, ticket: Ticket, place: _Place) -> None:
        queue = self._queues[ticket.tenant]
        group = queue.group(place.level)
        insort(group.steps, (place.arrival, ticket), key=lambda step: step[0])
        group.continuations += ticket.continuation
        if place.level == queue.best and group.steps[0][1] is ticket:
            self._offer(ticket.tenant, queue)

    def _take_out(self, ticket: Ticket, place: _Place) -> None:
        queue = self._queues[ticket.tenant]
        group = queue.groups[place.level]
        is_first = place.level == queue.best and group.steps[0][1] is ticket
        del group.steps[group.before(place.arrival)]
        group.continuations -= ticket.continuation
        if not group.steps:
            queue.drop(place.level)
        if not queue.groups:
            del self._queues[ticket.tenant]
        elif is_first:
            self._offer(ticket.tenant, queue)

    def _offer(self, tenant: str, queue: _Queue) -> None:
        heappush(self._heap, self._entry(tenant, queue))
        if len(self._heap) > 4 * len(self._queues) + _SLACK:
            self._heap = [self._entry(tenant, queue) for tenant, queue in self._queues.items()]
            heapify(self._heap)

    def _entry(self, tenant: str, queue: _Queue) -> Entry:
        return (*queue.best, self._counters.of(tenant), queue.groups[queue.best].steps[0][0], tenant)


def _urgency(left: float) -> int:
    """Deadlines by powers of two: of two equally near ones, the tenants' counters decide."""
    return min(_FAR, int(log2(left))) if left >= 1 else 0
