"""The bounded queue: who goes first, that nobody overtakes but by aging, and that every rejection has a retry."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.store.rules import AGING_SECONDS
from roost_gateway.admission.admission_queue import AdmissionQueue, QueueFullError, step_class
from roost_gateway.admission.waiting_line import Ticket

FAR = 1e6


def ticket(tenant: str = "a", priority: int = 0, enqueued: float = 0.0, deadline: float = FAR) -> Ticket:
    return Ticket(tenant, priority, priority == 0, enqueued, deadline)


def filled(*tickets: Ticket) -> AdmissionQueue:
    queue = AdmissionQueue()
    for ticket in tickets:
        queue.push(ticket, 0)
    return queue


def order(queue: AdmissionQueue, now: float) -> list[Ticket]:
    """Everybody in the line without a name, first to be served first."""
    order: list[Ticket] = []
    while (first := queue.first("", now)) is not None:
        order.append(first)
        queue.set_aside(first)
    queue.bring_back("")
    return order


def test_continuations_go_before_new_sessions_of_every_role() -> None:
    priorities = [10, 5, 5, -3]
    continuing = [step_class(priority, priorities, continuation=True) for priority in priorities]
    new = [step_class(priority, priorities, continuation=False) for priority in priorities]
    assert continuing == [0, 1, 1, 2]
    assert new == [3, 4, 4, 5]


def test_a_nearer_deadline_goes_first_within_a_class() -> None:
    late, soon = ticket(deadline=500.0), ticket(deadline=5.0)
    assert order(filled(late, soon), 0.0) == [soon, late]


def test_the_tenant_that_has_had_less_goes_first() -> None:
    queue = AdmissionQueue()
    queue.step_came("much", 5)
    queue.step_came("little", 3)
    much, little = ticket("much"), ticket("little")
    queue.push(much, 0)
    queue.push(little, 0)
    assert order(queue, 0.0) == [little, much]
    queue.learn("little", 6)
    assert order(queue, 0.0) == [much, little], "another gateway has served it"
    queue.learn("nobody", 0)
    assert len(queue) == 2


def test_a_counter_is_kept_while_the_tenant_has_steps() -> None:
    queue = AdmissionQueue()
    for counter in (7, 9):
        queue.step_came("a", counter)
    queue.step_left("a")
    first, second = ticket("a"), ticket("b")
    queue.step_came("b", 8)
    queue.push(first, 0)
    queue.push(second, 0)
    assert order(queue, 0.0) == [second, first]
    queue.remove(first)
    queue.step_left("a")
    queue.push(first, 0)
    assert order(queue, 0.0) == [first, second], "nothing is known of it any more"


def test_waiting_makes_up_for_class() -> None:
    old, young = ticket(priority=2, enqueued=0.0), ticket(priority=0, enqueued=3 * AGING_SECONDS)
    queue = filled(old, young)
    assert order(queue, 3 * AGING_SECONDS)[0] is old


tickets = st.lists(
    st.builds(
        ticket,
        tenant=st.sampled_from("abc"),
        priority=st.integers(0, 5),
        enqueued=st.floats(0, 50),
        deadline=st.floats(60, 1000),
    ),
    max_size=30,
)


@given(tickets, st.integers(1, 20))
def test_the_queue_is_bounded_and_every_rejection_has_a_retry(asked: list[Ticket], limit: int) -> None:
    queue = AdmissionQueue()
    for ticket in asked:
        if len(queue) < limit:
            queue.push(ticket, limit)
        else:
            with pytest.raises(QueueFullError) as full:
                queue.push(ticket, limit)
            assert full.value.retry_seconds > 0
        assert len(queue) <= limit


@given(tickets)
def test_a_lower_class_never_overtakes_but_by_aging(asked: list[Ticket]) -> None:
    served = order(filled(*asked), 50.0)
    assert sorted(map(id, served)) == sorted(map(id, asked))
    for place, first in enumerate(served):
        for later in served[place + 1 :]:
            overtaken = first.priority - later.priority
            if overtaken > 0:
                assert 50.0 - first.enqueued >= overtaken * AGING_SECONDS


@given(tickets, st.data())
def test_places_ahead_are_the_order(asked: list[Ticket], data: st.DataObject) -> None:
    queue = filled(*asked)
    if asked:
        chosen = data.draw(st.sampled_from(asked))
        assert sum(queue.ahead(chosen, 50.0)) == [id(other) for other in order(queue, 50.0)].index(id(chosen))
    newcomer = ticket(priority=6, enqueued=50.0)
    assert sum(queue.ahead(newcomer, 50.0)) == len(asked)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
def test_every_tenant_gets_its_share(names: list[str]) -> None:
    """Of tenants that all wait, with steps of one cost, none is served twice before each was served once."""
    queue = filled(*(ticket(name) for name in names))
    for name in names:
        queue.step_came(name, 0)
    served: list[str] = []
    while len(queue):
        first = queue.first("", 0.0)
        assert first is not None
        queue.admit(first, 0.0)
        served.append(first.tenant)
        queue.learn(first.tenant, served.count(first.tenant))
    distinct = set(names)
    assert set(served[: len(distinct)]) == distinct


def test_a_line_is_served_whoever_waits_in_another() -> None:
    queue = AdmissionQueue()
    old, new = (Ticket("a", priority, True, 0.0, FAR, line) for priority, line in ((0, "rev-1"), (5, "rev-2")))
    queue.push(old, 2)
    queue.push(new, 2)
    assert (queue.first("rev-2", 0.0), queue.ahead(new, 0.0)) == (new, (0, 0))
    assert queue.first("rev-1", 0.0) is old
    with pytest.raises(QueueFullError):
        queue.push(ticket(), 2)
