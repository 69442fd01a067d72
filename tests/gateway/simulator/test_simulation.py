"""Whole simulations: every step ends once, tokens add up, the same arguments give the same figures."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_gateway.simulator.arrivals import ClosedLoop
from roost_gateway.simulator.figures import Report
from roost_gateway.simulator.generator import fitted_parameters, generate
from roost_gateway.simulator.policies import NAMES, policy_factory
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_gateway.simulator.worker import WorkerSettings
from roost_gateway.simulator.workload import ALL_TOKENS, Session, Turn
from simulated_sessions import COSTS, session_lists, simulation_of


def expected_tokens(sessions: list[Session]) -> tuple[int, int, int]:
    """Steps, prompt tokens and output tokens, one turn after the other."""
    steps = prompts = outputs = 0
    for session in sessions:
        context = session.prefix_tokens
        for turn in session.turns:
            prompt = min(turn.kept_tokens, context) + turn.new_tokens
            context = prompt + turn.output_tokens
            steps, prompts, outputs = steps + 1, prompts + prompt, outputs + turn.output_tokens
    return steps, prompts, outputs


@given(
    session_lists(),
    st.integers(1, 3),
    st.sampled_from(NAMES),
    st.booleans(),
    st.integers(1, 4),
    st.sampled_from((0.001, 0.5, 60.0)),
    st.sampled_from((0, 40, 1_000)),
)
def test_every_step_ends_once_and_tokens_add_up(
    sessions: list[Session],
    workers: int,
    policy: str,
    recorded: bool,
    max_running: int,
    timeout: float,
    host_tokens: int,
) -> None:
    simulation = simulation_of(
        sessions,
        workers=workers,
        policy=policy,
        recorded_times=recorded,
        max_running=max_running,
        queue_timeout_seconds=timeout,
        host_tokens=host_tokens,
    )
    report = simulation.run()
    assert (report.steps, report.prompt_tokens, report.output_tokens) == expected_tokens(sessions)
    assert report.sessions_started == report.sessions_ended == len(sessions)
    assert simulation.submitted == report.steps
    assert (simulation.in_flight(), simulation.resident_sessions) == (0, 0)
    assert 0 <= report.cached_tokens <= report.prompt_tokens
    assert min(report.recomputed_tokens, report.evicted_tokens, report.gateway_wait.p50, report.worker_wait.p50) >= 0
    for worker in simulation.workers.values():
        worker.cache.check_integrity()


@given(session_lists(), st.integers(0, 30), st.integers(1, 2))
def test_steps_are_accounted_for_at_any_time(sessions: list[Session], steps: int, workers: int) -> None:
    simulation = simulation_of(sessions, workers=workers, queue_timeout_seconds=0.05)
    report = simulation.run(max_steps=steps)
    assert simulation.submitted == report.steps + simulation.in_flight()
    for worker in simulation.workers.values():
        worker.cache.check_integrity()


@given(session_lists())
def test_an_endless_cache_computes_nothing_twice(sessions: list[Session]) -> None:
    report = simulation_of(sessions, kv_tokens=10_000).run()
    # A prefix is computed by each session that comes while no other has it.
    prefixes = sum(session.prefix_tokens for session in sessions)
    assert report.evicted_tokens == 0
    assert report.recomputed_tokens <= prefixes
    assert report.hit_ratio <= report.endless_cache_hit_ratio


def crowded_sessions(seed: int) -> list[Session]:
    """Sessions that only grow, to about four times the KV of 450 tokens."""
    random = Random(seed)
    return [
        Session(f"s{number}", tuple(growing_turn(random) for _ in range(random.randint(8, 12)))) for number in range(8)
    ]


def growing_turn(random: Random) -> Turn:
    gap, seconds = random.expovariate(0.1), random.uniform(0.0, 2.0)
    return Turn(ALL_TOKENS, random.randint(1, 40), random.randint(1, 6), gap, random.random() < 0.5, seconds)


def run_crowded(seed: int, policy: str) -> Report:
    """Requests come at the same times whatever is cached, and a block is a token."""
    settings = {"kv_tokens": 450, "block_tokens": 1, "recorded_times": True, "max_running": 8}
    return simulation_of(crowded_sessions(seed), policy=policy, **settings).run()


def test_the_optimum_reuses_most() -> None:
    best = [run_crowded(seed, "Belady") for seed in range(15)]
    for policy in NAMES:
        others = [run_crowded(seed, policy) for seed in range(15)]
        for optimum, other in zip(best, others, strict=True):
            assert other.simulated_seconds == optimum.simulated_seconds
            assert other.evicted_tokens > 0
            assert other.cached_tokens <= optimum.cached_tokens
        if policy != "Belady":
            assert sum(report.cached_tokens for report in others) < sum(report.cached_tokens for report in best)


def run_of_agents(seed: int) -> Report:
    sessions = ClosedLoop(generate(fitted_parameters(), seed), 12, ramp_seconds=30)
    return Simulation(Fleet(3), policy_factory(WorkerSettings()), sessions).run(max_steps=150)


def test_what_left_the_device_comes_back_from_host_memory() -> None:
    turns = (Turn(0, 60, 1), Turn(ALL_TOKENS, 5, 1, gap_seconds=50.0), Turn(ALL_TOKENS, 5, 1, gap_seconds=50.0))
    sessions = [Session(f"s{number}", turns) for number in range(5)]
    without, with_room = (simulation_of(sessions, host_tokens=tokens).run() for tokens in (0, 1_000))
    assert without.restored_blocks == 0
    assert 0 < with_room.restored_blocks * 4 <= with_room.cached_tokens - without.cached_tokens
    assert with_room.recomputed_tokens < without.recomputed_tokens
    assert with_room.ttft.p50 < without.ttft.p50


def test_the_same_seed_gives_the_same_figures() -> None:
    assert run_of_agents(1) == run_of_agents(1)
    assert run_of_agents(1) != run_of_agents(2)


def test_a_step_larger_than_a_worker_ends_its_session() -> None:
    large = Session("large", (Turn(0, 150, 1), Turn(ALL_TOKENS, 60, 1), Turn(ALL_TOKENS, 1, 1)))
    report = simulation_of([large]).run()
    assert (report.steps, report.steps_too_long, report.sessions_ended) == (1, 1, 1)


def test_two_sessions_of_one_name_are_refused() -> None:
    session = Session("twin", (Turn(0, 5, 1),))
    with pytest.raises(ValueError, match="two sessions are called twin"):
        simulation_of([session, session]).run()


def test_sessions_spread_and_come_home() -> None:
    """Four workers, four sessions: routing gives each its own, and no step goes elsewhere while there is room."""
    turns = tuple(Turn(ALL_TOKENS, 8, 2, gap_seconds=1.0) for _ in range(5))
    simulation = simulation_of([Session(f"s{number}", turns) for number in range(4)], workers=4)
    report = simulation.run(max_steps=8)
    owners = [name for name, worker in simulation.workers.items() if worker.cache.free < worker.cache.total]
    assert report.moves == 0
    assert len(owners) == 4


def test_refused_steps_come_again_and_end() -> None:
    """One slot, and the queue's patience far below a step's time."""
    sessions = [Session(f"s{number}", (Turn(0, 60, 40),)) for number in range(8)]
    report = simulation_of(sessions, max_running=1, queue_timeout_seconds=0.01).run()
    assert report.refusals > 0
    assert report.steps == 8
    assert report.gateway_wait.highest > 1.0, "waiting counts from the first submission"


def test_steps_that_are_away_are_in_flight() -> None:
    sessions = [Session(f"s{number}", (Turn(0, 60, 40),)) for number in range(8)]
    simulation = simulation_of(sessions, max_running=1, queue_timeout_seconds=0.01)
    steps = simulation.run(max_steps=3).steps
    assert (simulation.submitted, simulation.in_flight()) == (8, 8 - steps)


def test_an_idle_worker_answers_when_the_prompt_is_computed() -> None:
    """The second step comes 10 s after the first has ended; what it adds is all there is to compute."""
    session = Session("alone", (Turn(0, 8, 1), Turn(ALL_TOKENS, 7, 1, gap_seconds=10.0)))
    report = simulation_of([session]).run()
    first, second = (COSTS.step_seconds + COSTS.prefill_seconds(8, cached) for cached in (0, 8))
    assert report.ttft.highest == pytest.approx(second)
    assert report.ttft.p50 == pytest.approx(first)
    assert report.simulated_seconds == pytest.approx(10.0 + first + second)
    assert report.cached_tokens == 8
