"""The gates of the simulator, and with them the working set under random arrivals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leases import lease_of
from roost_gateway.simulator.arrivals import ClosedLoop
from roost_gateway.simulator.fairness import VirtualTime
from roost_gateway.simulator.figures import Report
from roost_gateway.simulator.gates import WorkingSetGate, gate_factory
from roost_gateway.simulator.job import Job
from roost_gateway.simulator.placement import NO_HOME, Home, Placement
from roost_gateway.simulator.policies import policy_factory
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_gateway.simulator.worker import WorkerSettings
from roost_gateway.simulator.workload import ALL_TOKENS, Session, Turn

HOLD_SECONDS = 20.0
TURNS = st.builds(
    Turn,
    st.just(ALL_TOKENS),
    st.integers(1, 3000),
    st.integers(1, 300),
    st.floats(0, 60),
    calls_tool=st.booleans(),
)
SESSIONS = st.lists(st.lists(TURNS, min_size=1, max_size=4), min_size=1, max_size=25)


def run(sessions: list[list[Turn]], fleet: Fleet) -> tuple[Report, Simulation]:
    named = [Session(f"s{number}", turns, "system", 100) for number, turns in enumerate(sessions)]
    simulation = Simulation(fleet, policy_factory(fleet.settings), ClosedLoop(iter(named), len(named), 1.0))
    return simulation.run(max_seconds=1e6), simulation


@given(SESSIONS, st.integers(1, 3), st.integers(1, 3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_step_is_held_longer_than_it_may_be_and_every_step_ends(
    sessions: list[list[Turn]], workers: int, gateways: int, refuses: bool
) -> None:
    fleet = Fleet(
        workers,
        WorkerSettings(kv_tokens=16_000),
        gate=lambda: WorkingSetGate(HOLD_SECONDS),
        refuses_held=refuses,
        gateways=gateways,
    )
    report, simulation = run(sessions, fleet)
    assert report.steps == sum(map(len, sessions))
    assert report.longest_hold <= HOLD_SECONDS + 1e-6
    gate = simulation._gate
    assert isinstance(gate, WorkingSetGate)
    gate.working_set.check_integrity()
    assert not gate.working_set.live


@pytest.mark.parametrize("refuses", [False, True])
def test_a_hold_ends_although_the_gate_stays_closed(refuses: bool) -> None:
    large = [Turn(ALL_TOKENS, 12_000, 10), *[Turn(ALL_TOKENS, 10, 10, 10.0, calls_tool=True)] * 20]
    settings = WorkerSettings(kv_tokens=16_000)
    fleet = Fleet(1, settings, gate=lambda: WorkingSetGate(HOLD_SECONDS), refuses_held=refuses)
    report, _ = run([large, [Turn(ALL_TOKENS, 3000, 10, 5.0)]], fleet)
    assert report.longest_hold == pytest.approx(HOLD_SECONDS)
    assert (report.forced_steps > 0, report.refusals > 0) == (not refuses, refuses)


def job_of(session: str, kept: int, total: int) -> Job:
    return Job(session, "", 0, kept, total - 10, Turn(kept, 1, 10), 0.0, continuation=kept > 0)


@pytest.mark.parametrize("cached", [300, 0], ids=["kept", "evicted"])
def test_a_live_session_whose_log_is_evicted_while_its_step_waits_is_held(cached: int) -> None:
    held: list[Job] = []
    gate = WorkingSetGate()
    lease = lease_of("w", capacity_tokens=1000)
    placement = Placement([lease], held.append, gate, gateways=1, fairness=VirtualTime())
    first, other, second = job_of("a", 0, 300), job_of("b", 0, 500), job_of("a", 300, 600)
    assert placement.place(first, NO_HOME, 0.0)
    placement.step_ended(first, 1.0)
    placement.release(first, waiting=0, now=1.0)
    assert placement.place(other, NO_HOME, 2.0)
    assert not placement.place(second, Home("w", 300, 0), 3.0), "there is no room, but the gate is open to it"
    assert not second.held
    home = Home("w", cached, 0)
    assert placement.admit_next(lambda _: home, 4.0, looks=False) is None
    assert (held == [second]) is second.held is ("a" not in gate.working_set.live) is (cached == 0)
    placement.step_ended(other, 5.0)
    placement.release(other, waiting=0, now=5.0)
    assert placement.admit_next(lambda _: home, 5.0, looks=True) is (second if cached else None)
    gate.session_ended("b")
    assert placement.admit_next(lambda _: home, 6.0, looks=True) is (None if cached else second)
    assert len(held) <= 1, "it goes back to the gate once"


@pytest.mark.parametrize("name", ["working-set", "gate", "static:2"])
def test_a_gate_that_nothing_comes_near_changes_nothing(name: str) -> None:
    turn = Turn(ALL_TOKENS, 500, 50, 1.0, calls_tool=True)
    sessions = [[turn] * 3 for _ in range(2)]
    settings = WorkerSettings(kv_tokens=100_000)
    assert run(sessions, Fleet(1, settings, gate=gate_factory(name)))[0] == run(sessions, Fleet(1, settings))[0]


def test_a_cap_holds_sessions_beyond_it() -> None:
    turn = Turn(ALL_TOKENS, 500, 50, 1.0)
    report, _ = run([[turn] * 3 for _ in range(4)], Fleet(1, gate=gate_factory("static:1")))
    assert (report.steps, report.held_steps) == (12, 3)


@pytest.mark.parametrize("name", ["statik", "static:", "static:0", "static:x"])
def test_an_unknown_gate_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ValueError, match="working-set"):
        gate_factory(name)
