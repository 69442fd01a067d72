"""Routing: the cheapest worker, affinity as a saving, and the same answer in every gateway."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from roost_gateway.routing.choice import StepNeed, WorkerState
from roost_gateway.routing.revisions import serves_revision
from routing_oracle import choose, has_room, worker_of

NEED = StepNeed("ns/pool/session", "", log_tokens=1000, new_tokens=100)


def worker(name: str, **fields: object) -> WorkerState:
    figures = {"model_revision": "rev", "capacity_tokens": 10_000, "prefill_rate": 2000.0, "decode_rate": 50.0}
    return worker_of(name, **{**figures, **fields})


def chosen(need: StepNeed, *workers: WorkerState, excluded: frozenset[str] = frozenset()) -> str:
    choice = choose(need, workers, excluded)
    assert choice is not None
    return choice.worker.worker_id


def test_a_session_goes_where_its_cache_is() -> None:
    need = replace(NEED, cached={"b": 1000})
    assert chosen(need, worker("a"), worker("b", reserved_tokens=5000, reserved_attempts=4)) == "b"


def test_a_transfer_from_host_memory_costs_its_time_and_never_more_than_computing() -> None:
    need = replace(NEED, cached={"hot": 900}, warm={"fast": 1000, "slow": 1000})
    rates = {"prefill_rate": 1000.0, "decode_rate": 10.0}
    cold = worker("cold", **rates)
    fast = worker("fast", restore_rate=100_000.0, **rates)
    slow = worker("slow", restore_rate=10.0, **rates)
    hot = worker("hot", **rates)
    assert chosen(need, cold, fast, slow) == "fast"
    assert chosen(need, fast, hot) == "fast", "900 tokens on a device save less than 1000 that are copied fast"
    assert chosen(replace(need, cached={"hot": 1000}), fast, hot) == "hot"
    costs = [choice.cost_ticks for choice in (choose(need, [slow]), choose(need, [cold])) if choice]
    assert costs[0] == costs[1]


def test_a_worker_that_has_not_measured_its_copies_is_taken_to_compute() -> None:
    need = replace(NEED, warm={"b": 1000}, cached={"a": 100})
    assert chosen(need, worker("a"), worker("b")) == "a"


def test_a_queue_that_costs_more_than_rebuilding_is_left() -> None:
    full = worker("b", reserved_tokens=9900, reserved_attempts=1, decode_rate=10.0)
    need = replace(NEED, cached={"b": 1000})
    assert chosen(need, worker("a"), full) == "a"
    slow_prefill = worker("a", prefill_rate=20.0)
    assert chosen(need, slow_prefill, full) == "b"
    choice = choose(need, [slow_prefill, full])
    assert choice is not None
    assert not has_room(choice)


def test_who_committed_last_wins_a_tie_and_nothing_else() -> None:
    names = "abcd"
    assert {chosen(replace(NEED, owner=name), *map(worker, names)) for name in names} == set(names)
    fuller = worker("a", reserved_tokens=2000, reserved_attempts=2)
    assert chosen(replace(NEED, owner="a"), fuller, worker("b")) == "b"


def test_equal_workers_fill_evenly() -> None:
    assert chosen(NEED, worker("a", reserved_tokens=2000, reserved_attempts=2), worker("b")) == "b"


def test_no_step_waits_for_a_full_worker_that_has_nothing_of_its_session_while_another_has_room() -> None:
    full = worker("a", reserved_tokens=9900, reserved_attempts=1)
    assert chosen(NEED, full, worker("b", prefill_rate=20.0)) == "b"


def test_of_full_workers_the_one_that_takes_the_step_in_goes_before_one_that_cannot() -> None:
    takes_it = worker("a", reserved_tokens=4000, reserved_attempts=8, decode_rate=1.0)
    cannot = worker("b", reserved_tokens=9500, reserved_attempts=2)
    assert chosen(NEED, takes_it, cannot) == "a"
    choice = choose(NEED, [takes_it])
    assert choice is not None
    assert (has_room(choice), choice.may_be_granted) == (False, True)
    choice = choose(NEED, [cannot])
    assert choice is not None
    assert (has_room(choice), choice.may_be_granted) == (False, False)


def test_measured_rates_that_hardly_differ_are_equal() -> None:
    fuller = worker("a", prefill_rate=2020.0, reserved_tokens=1000, reserved_attempts=1)
    assert chosen(NEED, fuller, worker("b", prefill_rate=1980.0)) == "b"


def test_draining_excluded_and_other_revisions_are_no_choice() -> None:
    need = replace(NEED, model_revision="rev")
    workers = [worker("a", draining=True), worker("b"), worker("c", model_revision="other")]
    assert choose(need, workers, frozenset({"b"})) is None
    assert chosen(need, *workers) == "b"
    assert not serves_revision("gone", workers)


def test_a_worker_that_is_about_to_drain_is_a_choice_for_what_it_has_cached_alone() -> None:
    leaving, other = worker("a", leaving=True), worker("b", reserved_tokens=2000, reserved_attempts=2)
    assert chosen(NEED, leaving, other) == "b"
    assert choose(replace(NEED, owner="a"), [leaving]) is None
    cached = replace(NEED, cached={"a": 1000})
    assert chosen(cached, leaving, other) == "a"
    assert chosen(cached, leaving) == "a"


def test_a_worker_that_computes_logs_just_placed_there_is_left_for_a_slower_one() -> None:
    fast, slow = worker("a", prefill_rate=2000.0), worker("b", prefill_rate=1000.0)
    assert chosen(NEED, fast, slow) == "a"
    assert chosen(NEED, replace(fast, backlog_seconds=1.0), slow) == "b"


def test_a_step_larger_than_a_worker_takes_the_whole_of_it() -> None:
    choice = choose(replace(NEED, log_tokens=50_000), [worker("a")])
    assert choice is not None
    assert choice.tokens == 10_000
    assert has_room(choice)


states = st.builds(
    worker,
    st.sampled_from("abcdefgh"),
    reserved_tokens=st.integers(0, 12_000),
    reserved_attempts=st.integers(0, 20),
    waiting=st.integers(0, 5),
    prefill_rate=st.sampled_from([0.0, 100.0, 2000.0]),
    decode_rate=st.sampled_from([0.0, 10.0, 60.0]),
    draining=st.booleans(),
)
pools = st.lists(states, max_size=6, unique_by=lambda state: state.worker_id)


@given(pools, st.permutations(range(6)), st.integers(0, 9000))
def test_every_gateway_chooses_alike(workers: list[WorkerState], order: list[int], log: int) -> None:
    need = replace(NEED, log_tokens=log, cached={"a": log})
    shuffled = [workers[place] for place in order if place < len(workers)]
    first, second = choose(need, workers), choose(need, shuffled)
    assert (first and first.worker) == (second and second.worker)


@given(pools, st.integers(0, 9000))
def test_room_is_true_room_and_a_worker_that_serves_is_always_found(workers: list[WorkerState], log: int) -> None:
    choice = choose(replace(NEED, log_tokens=log), workers)
    assert (choice is None) == all(state.lease.draining for state in workers)
    if choice is not None and has_room(choice):
        assert choice.worker.free_tokens >= choice.tokens
        assert choice.worker.reserved_attempts < choice.worker.lease.max_running


@given(st.lists(st.integers(0, 2**40), min_size=64, max_size=64, unique=True))
def test_ties_spread_the_sessions(names: list[int]) -> None:
    workers = [worker(name) for name in "abcd"]
    homes = {chosen(replace(NEED, session_id=f"ns/pool/{name}"), *workers) for name in names}
    assert len(homes) > 1
