"""What a simulation notes in its course."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_gateway.simulator.arrivals import ClosedLoop
from roost_gateway.simulator.history import History
from roost_gateway.simulator.policies import policy_factory
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_gateway.simulator.worker import WorkerSettings
from roost_gateway.simulator.workload import ALL_TOKENS, Session, Turn
from simulated_sessions import COSTS, session_lists

SETTINGS = WorkerSettings(200, 4, 2, COSTS)


def simulated(sessions: list[Session], every: int) -> tuple[Simulation, History]:
    history = History(every)
    return Simulation(Fleet(1, SETTINGS), policy_factory(SETTINGS), ClosedLoop(iter(sessions), 4), history), history


@given(session_lists(), st.integers(1, 5))
def test_moments_are_in_order_and_each_step_is_in_the_distribution(sessions: list[Session], every: int) -> None:
    simulation, history = simulated(sessions, every)
    report = simulation.run()
    assert len(history.ttfts) == report.steps
    assert len(history.moments) == report.steps // every
    times = [moment.seconds for moment in history.moments]
    assert times == sorted(times)
    for moment in history.moments:
        assert 0 <= moment.hit_ratio < 1
        assert 0 <= moment.waiting <= len(sessions)


def test_hits_are_of_the_steps_since_the_moment_before() -> None:
    session = Session("s", (Turn(0, 20, 4), Turn(ALL_TOKENS, 6, 4), Turn(ALL_TOKENS, 6, 4)))
    simulation, history = simulated([session], every=1)
    simulation.run()
    assert [moment.hit_ratio for moment in history.moments] == pytest.approx([0.0, 23 / 30, 33 / 40])


def test_the_working_set_is_the_contexts_of_sessions_that_have_not_ended() -> None:
    """A step's moment is before its session goes on: it counts as it was, a session without a step with its prefix."""
    first = Session("first", (Turn(0, 20, 4), Turn(ALL_TOKENS, 6, 4, gap_seconds=50.0)))
    second = Session("second", (Turn(0, 10, 2, gap_seconds=20.0),), "prefix", 8)
    simulation, history = simulated([first, second], every=1)
    simulation.run()
    assert [moment.working_set_tokens for moment in history.moments] == [8, 24 + 8, 24]
    assert [moment.waiting for moment in history.moments] == [0, 0, 0]
