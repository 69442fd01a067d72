"""The plan of moves from a worker that is about to drain."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.store.holds import HoldRecord
from roost.store.moves import Resident
from roost_gateway.moving.plan import plan, rebuild_seconds
from roost_gateway.routing.choice import WorkerState
from routing_oracle import worker_of

NOW = 1_000_000_000
LONG = 1e6
REVISION = "rev"


def session(name: str, tokens: int = 1000, *, idle: float = 10.0, hold: HoldRecord | None = None) -> Resident:
    updated = NOW - round(idle * 1000)
    return Resident(name, "tenant", "leaving", tokens, REVISION, False, False, updated, hold)


def held(expect: float, since: float = 0.0) -> HoldRecord:
    return HoldRecord("tool", expect, NOW - round(since * 1000))


def home(name: str, **fields: object) -> WorkerState:
    figures = {"model_revision": REVISION, "capacity_tokens": 10_000, "prefill_rate": 1000.0}
    return worker_of(name, **{**figures, **fields})


def names(planned: object) -> dict[str, list[str]]:
    return {worker: [resident.session_id for resident in residents] for worker, residents in dict(planned).items()}


homes = st.builds(
    home,
    st.sampled_from("abcdef"),
    model_revision=st.sampled_from((REVISION, REVISION, "other")),
    capacity_tokens=st.sampled_from((0, 2_000, 20_000)),
    reserved_tokens=st.sampled_from((0, 500, 2_000, 15_000)),
    reserved_attempts=st.integers(0, 20),
    prefill_rate=st.sampled_from((0.0, 100.0, 1000.0, 1050.0)),
    backlog_seconds=st.sampled_from((0.0, 0.0, 3.0)),
    leaving=st.sampled_from((False, False, True)),
    draining=st.sampled_from((False, False, True)),
)
pools = st.lists(homes, max_size=6, unique_by=lambda worker: worker.worker_id)
holds = st.one_of(st.none(), st.builds(held, st.sampled_from((0.0, 5.0, 600.0)), st.sampled_from((0.0, 30.0))))
sessions = st.lists(
    st.builds(session, st.uuids().map(str), st.integers(1, 5_000), idle=st.floats(0, 1e5), hold=holds),
    max_size=30,
    unique_by=lambda resident: resident.session_id,
)


@given(sessions, pools, st.sampled_from((0.0, 1.0, 5.0, LONG)))
def test_a_plan_keeps_to_room_time_and_revision(
    residents: list[Resident], workers: list[WorkerState], seconds: float
) -> None:
    planned = plan(residents, workers, seconds, NOW)
    moved = [resident.session_id for some in planned.values() for resident in some]
    assert len(moved) == len(set(moved))
    assert set(moved) <= {resident.session_id for resident in residents}
    by_name = {worker.worker_id: worker for worker in workers}
    for name, some in planned.items():
        worker = by_name[name]
        assert not worker.lease.stops
        assert worker.model_revision == REVISION
        assert sum(resident.log_tokens for resident in some) <= worker.free_tokens
        takes = worker.backlog_seconds + sum(rebuild_seconds(resident, worker) for resident in some)
        assert takes <= seconds + 1e-6


@given(sessions, pools)
def test_with_time_only_what_has_no_room_anywhere_is_left(
    residents: list[Resident], workers: list[WorkerState]
) -> None:
    planned = plan(residents, workers, LONG, NOW)
    moved = {resident.session_id for some in planned.values() for resident in some}
    able = [worker for worker in workers if not worker.lease.stops and worker.model_revision == REVISION]
    for left in (resident for resident in residents if resident.session_id not in moved):
        for worker in able:
            given_tokens = sum(resident.log_tokens for resident in planned.get(worker.worker_id, ()))
            assert worker.free_tokens - given_tokens < left.log_tokens


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (session("held", hold=held(600.0)), session("idle", 5_000, idle=1.0)),
        (session("soon", hold=held(5.0)), session("late", 5_000, hold=held(600.0))),
        (session("overdue", hold=held(5.0, since=60.0)), session("soon", 5_000, hold=held(5.0))),
        (session("large", 2000, hold=held(33.0)), session("small", hold=held(32.0))),
        (session("just now", idle=1.0), session("long ago", 5_000, idle=1000.0)),
        (session("large", 2000, idle=1500.0), session("small", idle=1400.0)),
    ],
    ids=["held before idle", "soonest first", "overdue is soonest", "large first", "recent first", "large idle first"],
)
def test_the_order_of_moves(first: Resident, second: Resident) -> None:
    planned = plan([second, first], [home("a")], LONG, NOW)
    assert names(planned) == {"a": [first.session_id, second.session_id]}


def test_moves_spread_over_equal_homes() -> None:
    planned = plan([session(f"s{number}") for number in range(12)], [home(name) for name in "abc"], LONG, NOW)
    assert {worker: len(some) for worker, some in planned.items()} == {"a": 4, "b": 4, "c": 4}


def test_what_is_computed_already_counts_against_the_time() -> None:
    busy = replace(home("a"), backlog_seconds=9.5)
    assert names(plan([session("s")], [busy], 10.0, NOW)) == {}
    assert names(plan([session("s")], [busy, home("b", prefill_rate=200.0)], 10.0, NOW)) == {"b": ["s"]}
