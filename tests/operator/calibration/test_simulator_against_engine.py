"""The simulated worker against the real engine, both at the same costs and without a model: where they differ, the
simulator schedules, evicts or counts otherwise than the engine."""

import pytest

from engine_on_virtual_time import EngineOnVirtualTime
from roost_gateway.simulator.arrivals import ClosedLoop
from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.generator import fitted_parameters, generate
from roost_gateway.simulator.policies import policy_factory
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_gateway.simulator.worker import WorkerSettings
from roost_operator.calibration.comparison import GOAL, Figures, compare, figures_of
from roost_operator.calibration.small_sessions import small, working_set_tokens

COSTS = WorkerCosts(
    prompt_seconds=8e-4,
    prefill_token_seconds=1.2e-5,
    prefill_pair_seconds=6e-8,
    step_seconds=2.3e-3,
    row_seconds=7e-6,
    kv_token_seconds=3e-7,
    copy_token_seconds=3e-6,
    chunk_tokens=256,
)
"""Measured of a tiny model on two cores."""
CONTEXT, BLOCK, MAX_RUNNING, STEPS = 4096, 32, 16, 3000
TAIL_GOAL = 0.15
"""Of the TTFT's p95, which few steps decide: with half as many it would be left to the draw of the sessions."""


@pytest.mark.parametrize(
    ("population", "pressure", "host", "steps"),
    [
        (16, 0.5, 0.0, STEPS),
        (8, 1.3, 0.0, STEPS),
        (16, 1.3, 0.0, STEPS),
        (32, 2.0, 0.0, STEPS * 4 // 3),
        (16, 1.3, 0.5, STEPS * 2 // 3),
    ],
    ids=["all fits", "more than fits", "more at once", "twice what fits and runs", "host memory for half of the KV"],
)
def test_the_simulator_says_what_the_engine_does(population: int, pressure: float, host: float, steps: int) -> None:
    parameters = small(fitted_parameters(), CONTEXT - 1)
    kv_tokens = int(working_set_tokens(parameters, population) / pressure) // BLOCK * BLOCK
    host_tokens = int(kv_tokens * host)
    settings = WorkerSettings(kv_tokens, BLOCK, MAX_RUNNING, COSTS, context_tokens=CONTEXT, host_tokens=host_tokens)
    rounds: list[tuple[Figures, Figures]] = []
    for seed in range(3):
        engine = EngineOnVirtualTime(COSTS, kv_tokens, BLOCK, CONTEXT, MAX_RUNNING, host_tokens=host_tokens)
        real = engine.run(generate(parameters, seed), population, steps)
        loop = ClosedLoop(generate(parameters, seed), population)
        simulated = Simulation(Fleet(1, settings, reserves=False), policy_factory(settings), loop).run(steps)
        rounds.append((real, figures_of(simulated)))
    *others, tail = compare(rounds)
    assert {figure.figure: figure.error for figure in others if figure.error > GOAL} == {}
    assert tail.error <= TAIL_GOAL
