"""What it costs a gateway to admit a waiting step, beside the same of an older commit, in one process and in turn.

A pool is full and steps wait in one gateway. A step ends at a random worker, the gateway hears of it, and one of those
that wait is admitted there. Counted and timed is everything from the message to the admitted step, until the gateway is
quiet again: whose turn it is, which worker is best, what is asked of the store, and what finds out that the next one
has to go on waiting. The store is a ledger in memory that answers at once; Redis, the network and the twice-a-second
reading of all workers are not in it.

Evaluations are workers weighed for a step, and nodes of the trees in which workers are found now. Time is CPU time of
the process (`process_time`), so that what else runs on the machine counts for little; garbage is collected between
measurements. Rounds of both sides alternate; the figures are medians over all admitted steps, and the least and the
greatest median of a round.

The second part is the store's share: the time that Redis spends on a Reserve that has to wait and on a Begin whose
worker is full, while others wait.

    python tests/benchmarks/bench_admission.py [--quick] [--before COMMIT]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(Path(__file__).parents[1] / "support"),
    *(str(Path(__file__).parents[2] / part) for part in ("proto", "gateway")),
]

from admission_scripts import microseconds as script_costs
from admission_worlds import World, load_older
from figures import emit, machine, spread

from redis_servers import RedisServer

BEFORE = "cfb1da5"
NOW = "roost_gateway"
Samples = list[tuple[float, int]]
"""CPU seconds and evaluations of each admitted step."""


async def admitted(package: str, workers: int, waiters: int, steps: int, seed: int) -> tuple[Samples, dict[str, int]]:
    """One round: `steps` admitted one after the other, while as many as ever wait."""
    world, samples = World(package, workers, seed), list[tuple[float, int]]()
    try:
        await world.start(waiters)
        world.ledger.calls.clear()
        for _ in range(steps):
            gc.collect()
            gc.disable()
            evaluations, began = world.evaluations, time.process_time()
            await world.admit_one()
            samples.append((time.process_time() - began, world.evaluations - evaluations))
            gc.enable()
            await world.fill(waiters)
        return samples, dict(world.ledger.calls)
    finally:
        gc.enable()
        await world.aclose()


def summary(rounds: Sequence[tuple[Samples, dict[str, int]]]) -> dict[str, Any]:
    samples = [sample for round_samples, _ in rounds for sample in round_samples]
    medians = [statistics.median(seconds for seconds, _ in round_samples) * 1e3 for round_samples, _ in rounds]
    calls = {name for _, counted in rounds for name in counted}
    return {
        "cpu_ms_per_step": {
            "median": round(statistics.median(seconds for seconds, _ in samples) * 1e3, 4),
            "lowest_round": round(min(medians), 4),
            "highest_round": round(max(medians), 4),
        },
        "evaluations_per_step": statistics.median(count for _, count in samples),
        "store_calls_per_step": {
            name: round(sum(counted.get(name, 0) for _, counted in rounds) / len(samples), 2) for name in sorted(calls)
        },
        "steps": len(samples),
    }


async def cell(before: str, workers: int, waiters: int, rounds: int, steps: int) -> dict[str, Any]:
    sides: dict[str, list[tuple[Samples, dict[str, int]]]] = {before: [], NOW: []}
    for number in range(rounds):
        for package in (before, NOW) if number % 2 == 0 else (NOW, before):
            sides[package].append(await admitted(package, workers, waiters, steps, seed=number))
    old, new = summary(sides[before]), summary(sides[NOW])
    result = {
        "workers": workers,
        "waiters": waiters,
        "before": old,
        "now": new,
        "times_fewer_evaluations": round(old["evaluations_per_step"] / new["evaluations_per_step"], 1),
        "times_less_cpu": round(old["cpu_ms_per_step"]["median"] / new["cpu_ms_per_step"]["median"], 1),
    }
    print(
        f"{workers:5} workers {waiters:6} waiters   CPU a step {old['cpu_ms_per_step']['median']:9.3f} ms -> "
        f"{new['cpu_ms_per_step']['median']:7.3f} ms ({result['times_less_cpu']}x)   evaluations "
        f"{old['evaluations_per_step']:6.0f} -> {new['evaluations_per_step']:4.0f} "
        f"({result['times_fewer_evaluations']}x)",
        flush=True,
    )
    return result


async def bench(arguments: argparse.Namespace, before: str) -> dict[str, Any]:
    counts = (10, 100) if arguments.quick else (10, 100, 1000)
    lengths = (10, 100) if arguments.quick else (10, 100, 1000, 10_000)
    cells = []
    for workers in counts:
        for waiters in lengths:
            steps = 3 if waiters > 1000 else 10
            cells.append(await cell(before, workers, waiters, 2 if arguments.quick else 5, steps))
    rounds = 1 if arguments.quick else 3
    scripts = [await scripts_cell(before, waiters, rounds) for waiters in lengths if waiters <= 1000]
    return {
        "benchmark": "admission",
        "machine": machine(),
        "before": arguments.before,
        "cells": cells,
        "redis_microseconds": scripts,
    }


async def scripts_cell(before: str, waiters: int, rounds: int) -> dict[str, Any]:
    """Microseconds in Redis of each script, on both sides in turn."""
    taken: dict[str, dict[str, list[float]]] = {"before": {}, "now": {}}
    with RedisServer() as redis:
        for _ in range(rounds):
            for side, package in (("before", before), ("now", NOW)):
                for name, microseconds in (await script_costs(package, redis, waiters)).items():
                    taken[side].setdefault(name, []).append(microseconds)
    result = {side: {name: spread(values) for name, values in scripts.items()} for side, scripts in taken.items()}
    for name in result["now"]:
        old, new = (result[side][name]["median"] for side in ("before", "now"))
        print(f"{waiters:5} waiters in Redis   {name:8} {old:9.1f} us -> {new:7.1f} us", flush=True)
    return {"waiters": waiters, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short run that checks the benchmark itself")
    parser.add_argument("--before", default=BEFORE, help="commit to compare with; its gateway is read from git")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        emit(asyncio.run(bench(arguments, load_older(arguments.before, Path(folder)))))


if __name__ == "__main__":
    main()
