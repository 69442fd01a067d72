"""Tenants whose steps always wait are given equal services, up to a bound: `roost.store.service` says which."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import example, given, settings
from hypothesis import strategies as st

from roost.store.service import Demand, ServiceCounters, TenantService, weighted_service
from roost_gateway.admission.admission_queue import AdmissionQueue
from roost_gateway.admission.waiting_line import Ticket

ALWAYS = ("a", "b")
NOW, FAR, LONG_MS = 1, 1e6, 10**9


@dataclass(frozen=True, slots=True)
class Step:
    """What a step of a tenant takes. Those of `a` are much dearer than those of `b`."""

    context: int
    output: int
    most: int


STEPS = st.builds(Step, st.integers(0, 500), st.integers(0, 40), st.integers(0, 40))
MOVES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), STEPS), min_size=30, max_size=200)


class Pool:
    """Slots of workers, the store's counters, and gateways that learn of them by their own calls only."""

    def __init__(self, slots: int, gateways: int, weights: dict[str, int]) -> None:
        self.slots, self.weights = slots, weights
        self.store = ServiceCounters()
        self.gateways = [AdmissionQueue() for _ in range(gateways)]
        self.first: dict[int, Ticket] = {}
        """What each gateway has among the store's waiters."""
        self.steps: dict[Ticket, Step] = {}
        self.running: list[tuple[Ticket, int, int]] = []
        """Steps, with their gateways and charges."""
        self.arrivals = 0
        self.dearest = 0
        self.given: Counter[str] = Counter()
        """To each tenant, divided by its weight; of steps that run, what they are expected to take."""

    def arrive(self, tenant: str, gateway: int, step: Step) -> None:
        service = self.store.join(tenant, NOW)
        service.wait(LONG_MS)
        self.store.save(tenant, service, NOW)
        self.arrivals += 1
        ticket = Ticket(tenant, 0, True, float(self.arrivals), FAR)
        if tenant == "a":
            step = Step(10 * step.context, step.output, step.most)
        self.steps[ticket] = step
        self.dearest = max(self.dearest, weighted_service(step.context, step.output, self.weights[tenant]))
        self.gateways[gateway].step_came(tenant, service.counter)
        self.gateways[gateway].push(ticket, 0)

    def ask(self, gateway: int, following: Step) -> None:
        """The gateway asks for its first step, and for the one that is the first once it knows the answer."""
        queue, asked = self.gateways[gateway], None
        while (first := queue.first("", FAR / 2)) is not asked and first is not None:
            asked = self.first[gateway] = first
            if len(self.running) < self.slots and self.goes_first(first):
                self.grant(gateway, first, following)
                return
            queue.learn(first.tenant, self.store.counter(first.tenant))

    def goes_first(self, ticket: Ticket) -> bool:
        return ticket is min(self.first.values(), key=lambda other: (self.store.counter(other.tenant), other.enqueued))

    def grant(self, gateway: int, ticket: Ticket, following: Step) -> None:
        if ticket.tenant in ALWAYS:  # a step of it waits at any time
            self.arrive(ticket.tenant, following.context % len(self.gateways), following)
        step, service = self.steps[ticket], self.store.find(ticket.tenant, NOW)
        service.stop_waiting()
        charged = self.store.charge(service, Demand(self.weights[ticket.tenant], step.context, step.most), 0)
        self.dearest = max(self.dearest, charged)
        self.given[ticket.tenant] += charged
        self.store.save(ticket.tenant, service, NOW)
        del self.first[gateway]
        self.running.append((ticket, gateway, charged))
        queue = self.gateways[gateway]
        queue.admit(ticket, FAR / 2)
        queue.learn(ticket.tenant, service.counter)

    def end(self, which: int) -> None:
        ticket, gateway, charged = self.running.pop(which % len(self.running))
        step, service = self.steps[ticket], self.store.find(ticket.tenant, NOW)
        actual = weighted_service(step.context, step.output, self.weights[ticket.tenant])
        service.correct(charged, actual)
        self.given[ticket.tenant] += actual - charged
        service.learn(step.output)
        self.store.save(ticket.tenant, service, NOW)
        self.gateways[gateway].learn(ticket.tenant, service.counter)
        self.gateways[gateway].step_left(ticket.tenant)


DEAR = [(move % 6, 0, Step(500, 40, 40)) for move in range(180)]


@settings(deadline=None)
@example(moves=DEAR, alone=0, slots=1, gateways=1, weights=(1, 1))
@given(
    moves=MOVES,
    alone=st.integers(0, 120),
    slots=st.integers(1, 5),
    gateways=st.integers(1, 4),
    weights=st.tuples(st.sampled_from((1, 3)), st.sampled_from((1, 2))),
)
def test_the_gap_between_tenants_that_always_wait_is_bounded(
    moves: list[tuple[int, int, Step]], alone: int, slots: int, gateways: int, weights: tuple[int, int]
) -> None:
    pool = Pool(slots, gateways, {"a": weights[0], "b": weights[1], "c": 1})
    pool.arrive("a", 0, moves[0][2])
    leads: list[int] = []
    for number, (move, where, step) in enumerate(moves):
        if number == alone:
            pool.arrive("b", where % gateways, step)
        if move == 0:
            pool.arrive("c", where % gateways, step)
        elif move < 4 and len(pool.running) < slots:
            pool.ask(where % gateways, step)
        elif pool.running:
            pool.end(where)
        if number >= alone:
            leads.append(pool.given["a"] - pool.given["b"])
    assert max(leads, default=0) - min(leads, default=0) <= 2 * (slots + gateways) * pool.dearest


def test_a_tenant_is_lifted_when_nothing_of_it_waits() -> None:
    counters = ServiceCounters()
    counters.save("busy", TenantService(counter=700, waiting=1, until_ms=99), 1)
    counters.save("less", TenantService(counter=500, waiting=1, until_ms=50), 1)
    assert counters.join("new", 1).counter == 500
    counters.save("poor", TenantService(counter=20), 1)
    assert counters.join("poor", 1).counter == 500
    assert counters.join("less", 1).counter == 500, "it waits: what it lacks is its own"
    counters.save("rich", TenantService(counter=900), 1)
    assert counters.join("rich", 1).counter == 900
    assert counters.join("later", 60).counter == 700, "the gateways of the other have died"


def test_a_tenant_does_not_pay_for_what_nobody_else_wanted() -> None:
    counters = ServiceCounters()
    for _ in range(3):
        alone = counters.join("alone", 1)
        charged = counters.charge(alone, Demand(1, 100, 10), 0)
        alone.correct(charged, 5_000)
        counters.save("alone", alone, 1)
    assert alone.counter == 15_000
    assert counters.join("new", 1).counter == 10_000, "what the last step of the other began with"


def test_a_step_is_charged_with_the_outputs_of_before_and_corrected() -> None:
    service = TenantService()
    assert service.expected(Demand(1, 50, 10_000), 50) == weighted_service(100, 256, 1)
    assert service.expected(Demand(4, 50, 8), 50) == (100 * 8 + 32) // 4
    service.learn(16)
    assert service.expected(Demand(1, 100, 10_000), 0) == weighted_service(100, 16, 1)
    service.learn(96)
    assert service.expected(Demand(1, 100, 10_000), 0) == weighted_service(100, 26, 1)
    service.counter = 30
    service.correct(charged=100, actual=0)
    assert service.counter == 0
