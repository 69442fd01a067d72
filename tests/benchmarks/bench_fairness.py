"""Fairness among tenants in simulation: one has ten times the agents, one ten times the context, one is small.

Two workers with eight running steps each, so that up to 32 steps have reserved. Agents take step after step, with a
short pause; contexts keep their size, so that every step after the first is a continuation. Tenant `agents` has 100
agents with contexts of 2,000 tokens, `context` 40 with 20,000, and `small` 2 with 2,000. Arms: production's counters
with one gateway, with four, and with weight 3 for `context`; the order that there was before (fewest running steps,
then served longest ago); and first come first served.

For each arm: the share of service (context times output, and half of the output squared) that each tenant got; Jain's
index over the two tenants that always have steps waiting, of service divided by weight; the greatest difference between
what these two were given in any interval, divided by their weights, beside the bound of `roost.store.service`; and how
long steps waited until a worker began to run them.

    python tests/benchmarks/bench_fairness.py [--seconds 1200] [--seeds 3] [--arms NAME]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from random import Random
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("proto", "gateway", "worker")]

from figures import emit, machine

from roost.store.service import weighted_service
from roost_gateway.simulator.arrivals import ClosedLoop
from roost_gateway.simulator.fairness import FAIRNESS, Fairness, VirtualTime
from roost_gateway.simulator.history import History
from roost_gateway.simulator.job import Job
from roost_gateway.simulator.policies import policy_factory
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_gateway.simulator.worker import WorkerSettings
from roost_gateway.simulator.workload import Session, Turn

WORKERS, MAX_RUNNING = 2, 8
SLOTS = 2 * MAX_RUNNING * WORKERS
AGENTS = {"agents": (100, 2_000), "context": (40, 20_000), "small": (2, 2_000)}
"""Tenant -> agents, and tokens of each context."""
BACKLOGGED = ("agents", "context")
NEW_TOKENS, OUTPUT_TOKENS, GAP_SECONDS = (50, 500), (50, 500), (0.5, 3.0)
WARM_UP_SECONDS = 120.0
QUEUE_TIMEOUT_SECONDS = 3600.0
"""No step is refused, so that waits are those of the order."""


@dataclass(frozen=True, slots=True)
class Arm:
    name: str
    fairness: Callable[[], Fairness]
    gateways: int = 1
    weights: Mapping[str, int] = field(default_factory=dict)


WEIGHTS = {"context": 3}
ARMS = (
    Arm("virtual time", VirtualTime),
    Arm("virtual time, 4 gateways", VirtualTime, gateways=4),
    Arm("virtual time, weight 3 for context", lambda: VirtualTime(WEIGHTS), weights=WEIGHTS),
    Arm("fewest running", FAIRNESS["fewest-running"]),
    Arm("arrival", FAIRNESS["arrival"]),
)


@dataclass(frozen=True, slots=True)
class Ended:
    """A step. Times are seconds of the simulation."""

    tenant: str
    submitted: float
    placed: float
    started: float
    ended: float
    service: int
    """Divided by the tenant's weight."""


class Steps(History):
    """Notes every step that has ended."""

    def __init__(self, weights: Mapping[str, int]) -> None:
        super().__init__(every=sys.maxsize)
        self._weights = weights
        self.ended: list[Ended] = []

    def add(self, job: Job, now: float, waiting: Callable[[], int], working_set_tokens: Callable[[], int]) -> None:
        service = weighted_service(job.prompt_tokens, job.turn.output_tokens, self._weights.get(job.tenant, 1))
        self.ended.append(Ended(job.tenant, job.submitted, job.placed, job.started, now, service))


def turns(context: int, random: Random) -> Iterator[Turn]:
    """Return the steps of an agent without end."""
    for first in chain([True], repeat(False)):
        new = context if first else random.randint(*NEW_TOKENS)
        gap = 0.0 if first else random.uniform(*GAP_SECONDS)
        yield Turn(context, new, random.randint(*OUTPUT_TOKENS), gap, calls_tool=True)


def sessions(seed: int) -> Iterator[Session]:
    for tenant, (agents, context) in AGENTS.items():
        for number in range(agents):
            random = Random(f"{seed} {tenant} {number}")
            yield Session(f"{tenant}-{number}", turns(context, random), tenant=tenant)


def simulated(arm: Arm, seconds: float, seed: int) -> list[Ended]:
    """Return the steps that were given a worker after the warm-up, but for those that came too late to end."""
    settings = WorkerSettings(kv_tokens=1_000_000, max_running=MAX_RUNNING)
    fleet = Fleet(WORKERS, settings, QUEUE_TIMEOUT_SECONDS, gateways=arm.gateways, fairness=arm.fairness)
    population, steps = sum(agents for agents, _ in AGENTS.values()), Steps(arm.weights)
    arrivals = ClosedLoop(sessions(seed), population, ramp_seconds=10.0)
    Simulation(fleet, policy_factory(settings, "LRU"), arrivals, steps).run(max_seconds=seconds)
    longest = max(step.ended - step.placed for step in steps.ended)
    kept = [step for step in steps.ended if WARM_UP_SECONDS <= step.placed <= seconds - longest]
    return sorted(kept, key=lambda step: step.placed)


def greatest_gap(steps: list[Ended]) -> int:
    """Return the greatest difference, over all intervals, of what the two tenants were given that always wait, as
    `waiting_share` shows."""
    first, other = BACKLOGGED
    lead = greatest = least = 0
    for step in steps:
        lead += {first: step.service, other: -step.service}.get(step.tenant, 0)
        greatest, least = max(greatest, lead), min(least, lead)
    return greatest - least


def waiting_share(steps: list[Ended], tenant: str) -> float:
    """Return for what part of the time a step of the tenant waits for a worker."""
    own = [step for step in steps if step.tenant == tenant]
    changes = sorted([(step.submitted, 1) for step in own] + [(step.placed, -1) for step in own])
    begin, end = steps[0].placed, steps[-1].placed
    idle, waiting, since = 0.0, 0, changes[0][0]
    for time, change in changes:
        if not waiting:
            idle += max(0.0, min(time, end) - max(since, begin))
        waiting, since = waiting + change, time
    return 1 - idle / (end - begin)


def jain(shares: list[float]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def row_of(arm: Arm, steps: list[Ended]) -> dict[str, Any]:
    service, waits = Counter[str](), defaultdict[str, list[float]](list)
    for step in steps:
        service[step.tenant] += step.service
        waits[step.tenant].append(step.started - step.submitted)
    dearest = max(step.service for step in steps)
    whole = {tenant: given * arm.weights.get(tenant, 1) for tenant, given in service.items()}
    return {
        "share": {tenant: round(given / sum(whole.values()), 3) for tenant, given in whole.items()},
        "steps": {tenant: len(waits[tenant]) for tenant in AGENTS},
        "jain": round(jain([service[tenant] for tenant in BACKLOGGED]), 4),
        "gap_in_dearest_steps": round(greatest_gap(steps) / dearest, 1),
        "bound_in_dearest_steps": 2 * (SLOTS + arm.gateways),
        "waiting_share": {tenant: round(waiting_share(steps, tenant), 3) for tenant in AGENTS},
        "wait_p50_seconds": {tenant: round(statistics.median(waits[tenant]), 2) for tenant in AGENTS},
        "wait_p99_seconds": {tenant: round(_percentile(waits[tenant], 99), 2) for tenant in AGENTS},
        "steps_per_second": round(len(steps) / (steps[-1].placed - steps[0].placed), 2),
    }


def median(values: Iterable[Any]) -> Any:
    """Return the median over the seeds, for each tenant where there is a value for each."""
    several = list(values)
    if isinstance(several[0], dict):
        return {tenant: median(value[tenant] for value in several) for tenant in several[0]}
    return statistics.median(several)


def _percentile(values: list[float], part: int) -> float:
    return sorted(values)[-(-len(values) * part // 100) - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", default="", help="those whose names contain this")
    options = parser.parse_args()
    rows: dict[str, Any] = {}
    for arm in ARMS:
        if options.arms in arm.name:
            runs = [row_of(arm, simulated(arm, options.seconds, seed)) for seed in range(options.seeds)]
            rows[arm.name] = {figure: median(run[figure] for run in runs) for figure in runs[0]}
            print(f"{arm.name:36} {rows[arm.name]}", flush=True)
    emit({"machine": machine(), "seconds": options.seconds, "agents": AGENTS, "slots": SLOTS, "arms": rows})


if __name__ == "__main__":
    main()
