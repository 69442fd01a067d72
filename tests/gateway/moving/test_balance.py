"""Who is relieved by whom, and which session goes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.store.holds import HoldRecord
from roost.store.moves import Resident
from roost_gateway.moving.balance import (
    ACTIVE_SECONDS,
    BEGIN_SECONDS,
    END_SECONDS,
    PERSIST_SECONDS,
    STAY_SECONDS,
    Imbalances,
    Relief,
    expected_wait,
    may_relieve,
    next_to_move,
)
from roost_gateway.routing.choice import TYPICAL_STEP_TOKENS, WorkerState
from routing_oracle import worker_of

NOW_MS = 1_000_000_000
SLOTS = 8


def worker(name: str, wait: float = 0.0, *, attempts: int = 0, **fields: object) -> WorkerState:
    """A worker whose steps wait for so long: one waits, and one runs."""
    waiting = {"waiting": 1, "running": 1, "decode_rate": TYPICAL_STEP_TOKENS / wait} if wait else {}
    figures = {"max_running": SLOTS, "prefill_rate": 1000.0, "capacity_tokens": 10_000, "reserved_attempts": attempts}
    return worker_of(name, **{**figures, **waiting, **fields})


def session(name: str, tokens: int = 1000, **fields: object) -> Resident:
    return replace(Resident(name, "tenant", "busy", tokens, "", False, False, NOW_MS - 1000), **fields)


BUSY, IDLE = worker("busy", BEGIN_SECONDS), worker("idle")


def relieved(reliefs: list[Relief]) -> list[tuple[str, str]]:
    return [(relief.busy.worker_id, relief.idle.worker_id) for relief in reliefs]


def test_a_wait_is_that_for_the_steps_before() -> None:
    assert expected_wait(IDLE) == 0.0
    assert expected_wait(worker("w", waiting=3, running=2, decode_rate=TYPICAL_STEP_TOKENS / 4.0)) == 6.0
    reserved = worker("w", attempts=SLOTS + 4, running=SLOTS, decode_rate=TYPICAL_STEP_TOKENS / 2.0)
    assert expected_wait(reserved) == 1.0, "steps on their way wait, too"


def test_a_difference_has_to_persist() -> None:
    imbalances = Imbalances()
    assert imbalances.observe([BUSY, IDLE], 0.0) == []
    assert imbalances.observe([BUSY, IDLE], PERSIST_SECONDS - 0.1) == []
    assert relieved(imbalances.observe([BUSY, IDLE], PERSIST_SECONDS)) == [("busy", "idle")]
    assert imbalances.observe([worker("busy"), IDLE], PERSIST_SECONDS + 1) == []
    assert imbalances.observe([BUSY, IDLE], PERSIST_SECONDS + 2) == [], "the time begins again"


def test_relief_goes_on_until_waits_are_near_each_other() -> None:
    imbalances = Imbalances()
    imbalances.observe([BUSY, IDLE], 0.0)
    for wait, goes_on in ((BEGIN_SECONDS, True), (END_SECONDS, True), (END_SECONDS / 2, False), (END_SECONDS, False)):
        assert bool(imbalances.observe([worker("busy", wait), IDLE], 100.0)) is goes_on


def test_without_an_idle_worker_nothing_moves() -> None:
    imbalances = Imbalances()
    for now in (0.0, 100.0):
        assert imbalances.observe([BUSY, worker("half", attempts=SLOTS // 2)], now) == []
    assert imbalances.observe([BUSY, IDLE], 101.0) == [], "nor at once when one comes"


def test_workers_of_another_revision_and_such_that_leave_are_left_out() -> None:
    imbalances = Imbalances()
    others = [worker("other", model_revision="rev-2"), worker("leaves", leaving=True)]
    for now in (0.0, 100.0):
        assert imbalances.observe([BUSY, *others, worker("gone", 9.0, draining=True)], now) == []


def test_each_idle_worker_relieves_one_and_the_busiest_first() -> None:
    workers = [BUSY, worker("busier", 2 * BEGIN_SECONDS), worker("busiest", 3 * BEGIN_SECONDS), IDLE, worker("idle-2")]
    imbalances = Imbalances()
    imbalances.observe(workers, 0.0)
    assert relieved(imbalances.observe(workers, 10.0)) == [("busiest", "idle"), ("busier", "idle-2")]


def test_who_is_passed_over_leaves_the_idle_to_others() -> None:
    busier = worker("busier", 2 * BEGIN_SECONDS)
    imbalances = Imbalances()
    imbalances.observe([BUSY, busier, IDLE], 0.0)
    assert relieved(imbalances.observe([BUSY, busier, IDLE], 10.0, {busier.start})) == [("busy", "idle")]
    assert relieved(imbalances.observe([BUSY, busier, IDLE], 10.5)) == [("busier", "idle")], "its time goes on"
    assert imbalances.observe([BUSY, IDLE], 11.0, {IDLE.start}) == [], "nor does it relieve any"


workers = st.builds(
    worker,
    st.sampled_from("abcdef"),
    st.sampled_from((0.0, END_SECONDS / 2, END_SECONDS, BEGIN_SECONDS, 2.0)),
    attempts=st.integers(0, 2 * SLOTS),
    leaving=st.sampled_from((False, False, True)),
    model_revision=st.sampled_from(("", "rev-2")),
)
readings = st.lists(
    st.tuples(st.floats(0.1, 4.0), st.lists(workers, max_size=6, unique_by=lambda state: state.worker_id)), max_size=20
)


@given(readings)
def test_only_idle_workers_relieve_only_those_whose_steps_have_waited(
    readings: list[tuple[float, list[WorkerState]]],
) -> None:
    imbalances, now = Imbalances(), 0.0
    waiting_since: dict[str, float] = {}
    for seconds, states in readings:
        now += seconds
        waits = {state.worker_id: expected_wait(state) for state in states}
        reliefs = imbalances.observe(states, now)
        waiting_since = {name: waiting_since.get(name, now) for name, wait in waits.items() if wait >= END_SECONDS}
        assert len({relief.idle.worker_id for relief in reliefs}) == len(reliefs)
        for busy, idle in reliefs:
            assert may_relieve(idle)
            assert busy.model_revision == idle.model_revision
            assert now - waiting_since[busy.worker_id] >= PERSIST_SECONDS


def test_the_smallest_session_in_pause_goes_first() -> None:
    residents = [session("large", 2000), session("small", 500), session("busy", 100, busy=True)]
    chosen = next_to_move(residents, IDLE, NOW_MS)
    assert chosen is not None
    assert chosen.session_id == "small"


@pytest.mark.parametrize(
    "resident",
    [
        session("was moved", moved_ms=NOW_MS - round(STAY_SECONDS * 1000) + 1),
        session("long idle", updated_ms=NOW_MS - round(ACTIVE_SECONDS * 1000)),
        session("too large", 10_001),
        session("back soon", hold=HoldRecord("tool", 5.9, NOW_MS - 5000)),
        session("busy", busy=True),
    ],
    ids=lambda resident: resident.session_id,
)
def test_what_stays(resident: Resident) -> None:
    assert next_to_move([resident], IDLE, NOW_MS) is None


@pytest.mark.parametrize(
    "resident",
    [
        session("was moved long ago", moved_ms=NOW_MS - round(STAY_SECONDS * 1000)),
        session("in time", hold=HoldRecord("tool", 6.1, NOW_MS - 5000)),
        session("says nothing", hold=HoldRecord("tool", 0.0, NOW_MS - 5000)),
    ],
    ids=lambda resident: resident.session_id,
)
def test_what_goes(resident: Resident) -> None:
    assert next_to_move([resident], IDLE, NOW_MS) == resident


def test_no_session_goes_where_the_working_set_is_full() -> None:
    full = replace(IDLE, live_tokens=5000, live_limit=5999)
    assert next_to_move([session("s")], full, NOW_MS) is None
    assert next_to_move([session("s")], replace(full, live_limit=6000), NOW_MS) == session("s")
