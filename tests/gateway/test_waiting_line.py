"""The order of a line, after any changes of it, is that of sorting all of its steps."""

from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from roost_gateway.admission.waiting_line import KnownCounters, Ticket, WaitingLine

TENANTS = st.sampled_from("abcd")
Rank = tuple[int, int, int, int]


class LineMachine(RuleBasedStateMachine):
    """A line beside a plain list of tickets and the tenants' counters. Times are halves of seconds, so exact."""

    def __init__(self) -> None:
        super().__init__()
        self.known = KnownCounters()
        self.line = WaitingLine(self.known)
        self.now = 100.0
        self.arrivals = 0
        self.waiting: dict[Ticket, int] = {}
        self.aside: set[Ticket] = set()
        self.steps: dict[str, int] = {}
        self.counters: dict[str, int] = {}

    def rank(self, ticket: Ticket) -> Rank:
        return *ticket.level(self.now), self.counters.get(ticket.tenant, 0), self.waiting.get(ticket, self.arrivals + 1)

    def order(self, tickets: Iterable[Ticket]) -> list[Ticket]:
        return sorted(tickets, key=self.rank)

    @rule(
        tenant=TENANTS,
        priority=st.integers(-1, 3),
        continuation=st.booleans(),
        waited=st.integers(0, 60),
        left=st.integers(-2, 300),
    )
    def push(self, tenant: str, priority: int, continuation: bool, waited: int, left: int) -> None:
        ticket = Ticket(tenant, priority, continuation, self.now - waited / 2, self.now + left / 2)
        self.arrivals += 1
        self.waiting[ticket] = self.arrivals
        self.line.push(ticket, self.arrivals)

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 1000))
    def remove(self, which: int) -> None:
        ticket = list(self.waiting)[which % len(self.waiting)]
        del self.waiting[ticket]
        self.aside.discard(ticket)
        assert self.line.remove(ticket)
        assert not self.line.remove(ticket)

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 1000))
    def set_aside(self, which: int) -> None:
        ticket = list(self.waiting)[which % len(self.waiting)]
        self.aside.add(ticket)
        self.line.set_aside(ticket)

    @rule()
    def bring_back(self) -> None:
        self.aside.clear()
        self.line.bring_back()

    @rule(tenant=TENANTS, counter=st.integers(0, 9))
    def step_comes(self, tenant: str, counter: int) -> None:
        self.steps[tenant] = self.steps.get(tenant, 0) + 1
        self.counters[tenant] = counter
        self.known.step_came(tenant, counter)
        self.line.counter_changed(tenant)

    @precondition(lambda self: any(self.steps.values()))
    @rule(which=st.integers(0, 10))
    def step_leaves(self, which: int) -> None:
        some = [tenant for tenant, count in self.steps.items() if count]
        tenant = some[which % len(some)]
        self.steps[tenant] -= 1
        if not self.steps[tenant]:
            del self.counters[tenant]
        self.known.step_left(tenant)
        self.line.counter_changed(tenant)

    @rule(tenant=TENANTS, counter=st.integers(0, 9))
    def learn(self, tenant: str, counter: int) -> None:
        if tenant in self.counters:
            self.counters[tenant] = counter
        self.known.learn(tenant, counter)
        self.line.counter_changed(tenant)

    @rule(halves=st.integers(1, 50))
    def wait(self, halves: int) -> None:
        self.now += halves / 2

    @invariant()
    def the_first_is_the_first_of_all(self) -> None:
        ready = self.order(ticket for ticket in self.waiting if ticket not in self.aside)
        assert self.line.first(self.now) is (ready[0] if ready else None)
        assert len(self.line) == len(self.waiting)

    @precondition(lambda self: not self.aside)
    @invariant()
    def everybody_is_ahead_of_those_who_come_later(self) -> None:
        in_order = self.order(self.waiting)
        for number, ticket in enumerate(in_order):
            assert ticket in self.line
            continuations = sum(earlier.continuation for earlier in in_order[:number])
            assert self.line.ahead(ticket, self.now) == (continuations, number - continuations)


TestWaitingLine = LineMachine.TestCase
TestWaitingLine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_what_was_thrown_away_does_not_pile_up() -> None:
    known = KnownCounters()
    line = WaitingLine(known)
    known.step_came("t0", 0)
    line.push(Ticket("t0", 5, True, 0.0, 1e6), 0)
    for number in range(1, 2_000):
        ticket = Ticket(f"t{number % 7}", number % 3, True, 0.0, 1e6)
        line.push(ticket, number)
        assert line.first(0.0) is ticket
        known.learn("t0", number)
        line.counter_changed("t0")
        line.remove(ticket)
    assert len(line._heap) + len(line._timetable) < 500
