"""How many workers a load needs: the search, and what it costs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_gateway.simulator.figures import Percentiles
from roost_gateway.simulator.planning import Goal, Trial, trials
from roost_gateway.simulator.workload import ALL_TOKENS, Session, Turn
from simulated_sessions import simulation_of

TURNS = tuple(Turn(ALL_TOKENS, 10, 4, gap_seconds=1.0) for _ in range(3))
REPORT = simulation_of([Session("alone", TURNS)]).run()


def tried(most: int, fewest: int) -> list[Trial]:
    """The trials where `fewest` workers and all larger numbers meet the goal."""
    goal = Goal(ttft_p95_seconds=1.0, price_per_worker_hour=2.0)

    def run(workers: int) -> Trial:
        times = Percentiles(0.1, 0.9 if workers >= fewest else 1.1, 2.0, 3.0)
        return goal.trial(workers, replace(REPORT, ttft=times))

    return list(trials(run, most))


@given(st.integers(1, 300), st.integers(1, 300))
def test_the_fewest_and_one_less_are_tried_and_no_number_twice(most: int, fewest: int) -> None:
    results = tried(most, fewest)
    numbers = [trial.workers for trial in results]
    assert len(numbers) == len(set(numbers)) <= 2 * most.bit_length() + 1
    enough = [trial.workers for trial in results if trial.meets_goal]
    if fewest > most:
        assert enough == []
        assert max(numbers) == most
    else:
        assert min(enough) == fewest
        assert fewest == 1 or fewest - 1 in numbers


def test_costs_follow_from_the_price_and_the_simulated_time() -> None:
    report = replace(REPORT, steps=500, sessions_ended=20, simulated_seconds=1_800.0)
    trial = Goal(ttft_p95_seconds=60.0, price_per_worker_hour=3.0).trial(4, report)
    assert trial.cost_per_hour == pytest.approx(12.0)
    assert trial.cost_per_thousand_steps == pytest.approx(12.0)  # 6.0 in half an hour, for 500 steps
    assert trial.cost_per_session == pytest.approx(0.3)


def test_a_run_in_which_nothing_ends_meets_no_goal_and_has_no_cost_of_a_step() -> None:
    nothing = replace(REPORT, steps=0, sessions_ended=0, ttft=Percentiles(0.0, 0.0, 0.0, 0.0))
    trial = Goal(ttft_p95_seconds=60.0, price_per_worker_hour=3.0).trial(1, nothing)
    assert not trial.meets_goal
    assert (trial.cost_per_thousand_steps, trial.cost_per_session) == (None, None)
