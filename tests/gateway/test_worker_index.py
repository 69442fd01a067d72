"""The index of workers: the same choice as looking at all of them, by looking at few."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from roost_gateway.routing import gate
from roost_gateway.routing.choice import StepNeed, WorkerState
from roost_gateway.routing.worker_index import WorkerIndex
from routing_oracle import choose, choose_at_gate, worker_of

NAMES = [f"w{number}" for number in range(12)]


def worker(name: str, **fields: object) -> WorkerState:
    figures = {"model_revision": "rev", "capacity_tokens": 4_000, "max_running": 3, "decode_rate": 50.0}
    return worker_of(name, **{**figures, **fields})


states = st.builds(
    worker,
    st.sampled_from(NAMES),
    model_revision=st.sampled_from(("rev", "rev", "other")),
    capacity_tokens=st.sampled_from((0, 2_000, 4_000)),
    reserved_tokens=st.sampled_from((0, 0, 500, 1_000, 3_500, 4_000)),
    reserved_attempts=st.integers(0, 7),
    waiting=st.integers(0, 2),
    prefill_rate=st.sampled_from((0.0, 1.0, 100.0, 1990.0, 2000.0)),
    draining=st.sampled_from((False, False, False, True)),
    leaving=st.sampled_from((False, False, False, True)),
    backlog_seconds=st.sampled_from((0.0, 0.0, 0.5, 20.0)),
    live_tokens=st.sampled_from((0, 0, 900, 2_000, 3_500)),
    live_limit=st.sampled_from((1_000, 3_200)),
)
needs = st.builds(
    StepNeed,
    session_id=st.sampled_from([f"ns/pool/{number}" for number in range(5)]),
    model_revision=st.sampled_from(("", "rev", "other", "gone")),
    log_tokens=st.sampled_from((0, 500, 3_000, 9_000)),
    new_tokens=st.sampled_from((1, 400)),
    cached=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 3_000), max_size=2),
    owner=st.sampled_from(("", *NAMES)),
    warm=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 3_000), max_size=1),
    prefix_tokens=st.sampled_from((0, 0, 300, 5_000)),
)
pools = st.lists(states, max_size=12, unique_by=lambda state: state.worker_id)


@given(pools, st.lists(states, max_size=12), pools, needs, st.sets(st.sampled_from(NAMES), max_size=3))
def test_the_index_chooses_as_a_look_at_every_worker(
    first: list[WorkerState], changes: list[WorkerState], last: list[WorkerState], need: StepNeed, excluded: set[str]
) -> None:
    index, known = WorkerIndex(first), {state.worker_id: state for state in first}
    assert index.choose(need, excluded) == choose(need, first, excluded)
    for state in changes:
        index.put(state)
        known[state.worker_id] = state
        assert index.choose(need, excluded) == choose(need, list(known.values()), excluded)
    index.replace(last)
    assert dict(index.states) == {state.worker_id: state for state in last}
    assert index.choose(need, excluded) == choose(need, last, excluded)


@given(
    pools,
    st.lists(states, max_size=12),
    needs,
    st.sets(st.sampled_from(NAMES), max_size=3),
    st.sampled_from((0.0, 0.1, 1.0, 1e3)),
)
def test_the_index_chooses_at_the_gate_as_a_look_at_every_worker(
    first: list[WorkerState], changes: list[WorkerState], need: StepNeed, excluded: set[str], waited_seconds: float
) -> None:
    index, known = WorkerIndex(first), {state.worker_id: state for state in first}
    assert gate.choose(index, need, excluded, waited_seconds) == choose_at_gate(need, first, excluded, waited_seconds)
    for state in changes:
        index.put(state)
        known[state.worker_id] = state
        expected = choose_at_gate(need, list(known.values()), excluded, waited_seconds)
        assert gate.choose(index, need, excluded, waited_seconds) == expected


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=40), st.integers(0, 10**6), st.integers(0, 3))
def test_a_tie_goes_round_the_ring_from_the_sessions_place(numbers: set[int], session: int, taken: int) -> None:
    workers, need = [worker(f"w{number}") for number in numbers], StepNeed(f"ns/pool/{session}", "rev", 500, 100)
    index = WorkerIndex(workers)
    excluded: set[str] = set()
    for _ in range(min(taken, len(workers) - 1)):
        choice = index.choose(need, excluded)
        assert choice is not None
        assert choice == choose(need, workers, excluded)
        excluded.add(choice.worker.worker_id)
    assert index.choose(need, excluded) == choose(need, workers, excluded)


@given(st.lists(states, max_size=3), needs)
def test_a_reading_that_changes_few_of_many_workers_is_taken_in(changes: list[WorkerState], need: StepNeed) -> None:
    before = {name: worker(name) for name in [*NAMES, *(f"x{number}" for number in range(100))]}
    after = {**before, **{state.worker_id: state for state in changes}}
    index = WorkerIndex(before.values())
    index.replace(after.values())
    assert dict(index.states) == after
    assert index.choose(need) == choose(need, list(after.values()))


def test_few_of_many_workers_are_looked_at() -> None:
    most = {}
    for count in (10, 1_000):
        index = WorkerIndex(worker(f"w{number}", reserved_tokens=100, reserved_attempts=1) for number in range(count))
        looked_at = []
        for number in range(100):
            before = index.evaluations
            choice = index.choose(StepNeed(f"ns/pool/{number}", "rev", 500, 100, {"w1": 10}, "w1"))
            looked_at.append(index.evaluations - before)
            assert choice is not None
            state = choice.worker
            index.put(
                replace(
                    state,
                    reserved_tokens=state.reserved_tokens + choice.tokens,
                    reserved_attempts=state.reserved_attempts + 1,
                )
            )
        most[count] = max(looked_at)
    assert most[1_000] <= 4 * most[10]


def test_few_of_many_workers_are_looked_at_where_the_gate_is_closed_at_most() -> None:
    most = {}
    for count in (16, 1_024):
        index = WorkerIndex(
            worker(f"w{number}", reserved_tokens=100, live_tokens=500 if number % 8 == 3 else 990, live_limit=1_000)
            for number in range(count)
        )
        looked_at = []
        for number in range(100):
            before = index.evaluations
            choice = gate.choose(index, StepNeed(f"ns/pool/{number}", "rev", 0, 100), frozenset(), 0.0)
            assert choice is not None
            assert choice.worker.live_tokens == 500
            looked_at.append(index.evaluations - before)
        most[count] = max(looked_at)
    assert most[1_024] <= 4 * most[16]


def test_a_reading_in_which_only_other_figures_of_leases_changed_keeps_the_trees() -> None:
    index = WorkerIndex(worker(name) for name in NAMES)
    group = next(iter(index._groups.values()))
    after = {name: worker(name, running=2, free_tokens=7) for name in NAMES}
    index.replace(after.values())
    assert dict(index.states) == after
    assert next(iter(index._groups.values())) is group
