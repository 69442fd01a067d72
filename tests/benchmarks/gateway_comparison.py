"""The gateway of this tree and that of another commit, in turn: CPU of a step, latencies, and the highest rate."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Any

from figures import judged, spread
from gateway_load import Direct, Sample, Through, load, measured
from gateway_rates import cpu_text, highest_rate
from gateway_stack import GatewayStack, gateway_stack
from other_tree import THIS_TREE, other_tree

from roost.contract.steps import Deltas
from roost.v1 import session_service_pb2 as pb

CPU_GOALS = {Deltas.NONE: 1 / 8, Deltas.INTERVAL: 1 / 4, Deltas.EACH: 1 / 2}
"""What a step may take of the gateway's CPU, as a share of what it takes at the other commit."""
RATE_GOAL = 4.0
"""What the highest rate has to be at least, over that of the other commit."""

Samples = Mapping[tuple[Deltas, str], Sequence[Sample]]
"""By how output comes and the tree's name, one per round."""


@dataclass(frozen=True)
class Plan:
    """What is measured of both trees."""

    rounds: int
    rate: float
    """Steps a second, for CPU and latencies."""
    ladder: Sequence[float]
    """Steps a second that are tried in turn to find the highest rate."""
    seconds: float
    interval: float
    """Seconds between the null worker's tokens."""
    even: bool


async def compare(commit: str, plan: Plan, redis_dir: str) -> dict[str, Any]:
    """Measure each way of output of each tree in turn, and the highest rates, in every round.

    Both stacks are there all the time and have a Redis each; load has only the one that is measured. A gateway from
    before `deltas` sends each token, whatever it is asked for. Latencies are those through a gateway less those of
    calls to its own worker: null workers differ, too, in when their tokens come.
    """
    samples, directs = (defaultdict[tuple[Deltas, str], list[Sample]](list) for _ in range(2))
    highest = defaultdict[str, list[float]](list)
    async with AsyncExitStack() as running:
        stacks = {
            tree.name: await running.enter_async_context(gateway_stack(tree, redis_dir, plan.interval))
            for tree in (THIS_TREE, other_tree(commit))
        }
        for stack in stacks.values():
            await _sample(stack, Deltas.INTERVAL, replace(plan, seconds=1.0))  # Its first steps load what they need.
        for _ in range(plan.rounds):
            for deltas in Deltas:
                for name, stack in stacks.items():
                    sample = await _sample(stack, deltas, plan)
                    print(f"{deltas:8} {name:>12}: CPU a step {cpu_text(sample.cpu_ms)}", flush=True)
                    samples[deltas, name].append(sample)
                    directs[deltas, name].append(await _sample_direct(stack, deltas, plan))
            for name, stack in stacks.items():
                print(f"highest rate of {name}", flush=True)
                highest[name].append(await _highest(stack, plan))
    return compared(samples, directs, highest, THIS_TREE.name, commit)


async def _sample(stack: GatewayStack, deltas: Deltas, plan: Plan) -> Sample:
    async with aclosing(Through(stack.gateway, _on_wire(deltas))) as through:
        return await measured(plan.rate, plan.seconds, through, stack.meter, interval=plan.interval, even=plan.even)


async def _sample_direct(stack: GatewayStack, deltas: Deltas, plan: Plan) -> Sample:
    async with aclosing(Direct(stack.worker, _on_wire(deltas))) as direct:
        _, sample = await load(plan.rate, plan.seconds, direct.step, interval=plan.interval, even=plan.even)
        return sample


async def _highest(stack: GatewayStack, plan: Plan) -> float:
    async with aclosing(Through(stack.gateway, _on_wire(Deltas.EACH))) as through:
        best = await highest_rate(
            plan.ladder, min(plan.seconds, 8.0), through, stack.meter, interval=plan.interval, even=plan.even
        )
    return float(best["steps_per_second"])


def _on_wire(deltas: Deltas) -> "pb.Deltas.ValueType":
    return pb.Deltas.Value(f"DELTAS_{deltas.upper()}")


def compared(
    samples: Samples, directs: Samples, highest: Mapping[str, Sequence[float]], name: str, other: str
) -> dict[str, Any]:
    """Spreads of both trees over the rounds, ratios of medians of tree `name` over tree `other`, and goals.

    `samples` are those through the gateways, `directs` those of direct calls to the workers.
    The ratio of highest rates is None where the other tree did not take the lowest rate.
    """
    cpu = {deltas: _cpu(samples[deltas, name]) / _cpu(samples[deltas, other]) for deltas in Deltas}
    rates = {tree: spread(rounds) for tree, rounds in highest.items()}
    slowest = rates[other]["median"]
    rate = rates[name]["median"] / slowest if slowest else None
    goals = [
        judged(f"gateway's CPU of a step, {deltas}", cpu[deltas], at_most=most) for deltas, most in CPU_GOALS.items()
    ]
    if rate is not None:
        goals.append(judged("highest rate", rate, at_least=RATE_GOAL))
    return {
        "by_deltas": {
            deltas: {tree: _spreads(samples[deltas, tree], directs[deltas, tree]) for tree in (name, other)}
            for deltas in Deltas
        },
        "highest_steps_per_second": rates,
        "gateway_cpu_ratio": {deltas: round(ratio, 3) for deltas, ratio in cpu.items()},
        "highest_rate_ratio": rate,
        "goals": goals,
    }


def _cpu(samples: Sequence[Sample]) -> float:
    return statistics.median(sample.cpu_ms["gateway"] for sample in samples)


def _spreads(samples: Sequence[Sample], directs: Sequence[Sample]) -> dict[str, Any]:
    added = [through.added_to(direct) for through, direct in zip(samples, directs, strict=True)]
    return {
        "cpu_ms_per_step": {
            process: spread([sample.cpu_ms[process] for sample in samples], 3) for process in samples[0].cpu_ms
        },
        "added_ms": {
            latency: {cut: spread([each[latency][cut] for each in added], 3) for cut in added[0][latency]}
            for latency in added[0]
        },
        "saturated_rounds": sum(sample.saturated for sample in samples),
    }
