"""Tenants in the simulator: what each is given, and that nothing is left of steps that have gone."""

from dataclasses import replace

import pytest

from roost_gateway.simulator.arrivals import ClosedLoop
from roost_gateway.simulator.fairness import FAIRNESS, FewestRunning, VirtualTime
from roost_gateway.simulator.history import History
from roost_gateway.simulator.policies import policy_factory
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_gateway.simulator.worker import WorkerSettings
from roost_gateway.simulator.workload import Session, Turn
from simulated_sessions import COSTS


def shares(fairness, gateways: int) -> dict[str, int]:
    """What two tenants were given that always have steps waiting: one has many agents, one long contexts. All sessions
    take a step first, so that those that count are of one class."""
    given: dict[str, int] = {"many": 0, "long": 0}

    class Given(History):
        def add(self, job, now, waiting, working_set_tokens) -> None:
            given[job.tenant] += job.prompt_tokens * job.turn.output_tokens * job.continuation

    def turns(tokens: int) -> tuple[Turn, ...]:
        same = Turn(tokens, 4, 4)
        return Turn(0, tokens, 4), replace(same, gap_seconds=60.0), *[same] * 60

    sessions = [Session(f"m{number}", turns(20), tenant="many") for number in range(24)]
    sessions += [Session(f"l{number}", turns(200), tenant="long") for number in range(12)]
    settings = WorkerSettings(20_000, 4, 2, COSTS)
    fleet = Fleet(1, settings, 1e6, gateways=gateways, fairness=fairness)
    loop = ClosedLoop(iter(sessions), len(sessions))
    Simulation(fleet, policy_factory(settings, "LRU"), loop, Given(every=10**6)).run(max_steps=500)
    return given


@pytest.mark.parametrize("gateways", [1, 3])
@pytest.mark.parametrize("weight", [1, 3])
def test_service_follows_weights_in_any_number_of_gateways(gateways: int, weight: int) -> None:
    given = shares(lambda: VirtualTime({"long": weight}), gateways)
    assert given["long"] / given["many"] == pytest.approx(weight, rel=0.15)


def test_the_orders_that_it_is_compared_to_look_at_steps_only() -> None:
    for name in ("fewest-running", "arrival"):
        given = shares(FAIRNESS[name], 1)
        assert given["long"] > 2 * given["many"], name


@pytest.mark.parametrize("gateways", [1, 3])
def test_nothing_is_left_of_steps_that_have_gone(gateways: int) -> None:
    """Also of those that were refused before."""
    counters, running = VirtualTime(), FewestRunning()
    sessions = [Session(f"s{number}", (Turn(20, 4, 4),) * 5, tenant="abc"[number % 3]) for number in range(12)]
    for order in (counters, running):
        settings = WorkerSettings(200, 4, 2, COSTS)
        fleet = Fleet(1, settings, 0.001, gateways=gateways, fairness=lambda order=order: order)
        simulation = Simulation(fleet, policy_factory(settings, "LRU"), ClosedLoop(iter(sessions), 12))
        assert simulation.run().refusals > 0
        assert all(not queue._counters._counters for queue in simulation._placement._queues)
    assert not any(service.waiting for service in counters.counters.tenants.values())
    assert not any(running._running.values())
