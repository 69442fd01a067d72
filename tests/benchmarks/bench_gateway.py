"""What the gateway adds: latency, CPU and messages per second over a null worker, against calling the worker directly.

A step is 64 tokens, one each 20 ms unless `--tokens-per-second` says otherwise, over 1,000 prompt ids; all steps have
theirs at the same moments, as with the iterations of an engine. They come as `--deltas` says, through the gateway and
directly. Redis commits with `appendfsync always` on the folder given by
--redis-dir. Gateway, worker, Redis and this load generator are processes of their own and share the machine's cores: on
two cores the generator and the worker take as much as the gateway, so the highest rate is the machine's.

Three latencies, each as the difference between the gateway and a direct call at the same offered rate:
- first: from the call to the first delta (Begin and Reserve are in it),
- delta: from a token at the worker to its arrival here; how long it gathers is in it on both ways,
- step: from the call to Committed, less the time of the script (Commit is in it).

Steps begin at random times, as independent clients begin them, and at the same ones directly and through the gateway.
Counted are steps that continue a session; those that begin one are told apart (`new_sessions_ms`). CPU is told for each
process apart. A rate is saturated when steps ended slower than they were begun, or were shed because every session was
busy: its latencies are then those of a queue that grows, and say nothing of a gateway.

The highest rate is looked for with `--deltas each` only, and without `--rates`: output that gathers is later than its
limit by design.

    python tests/benchmarks/bench_gateway.py [--quick] [--deltas none|interval|each] [--rates 20 50]
    python tests/benchmarks/bench_gateway.py [--quick] --against COMMIT [--rounds 3]

`--against` measures the gateway and the null worker of another commit in turn with this tree's, under this load, with
each of the three ways of output: CPU of a step and latencies at 50 steps/s, and the highest rate.

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

sys.path[:0] = [
    str(Path(__file__).parents[1] / "support"),
    *(str(Path(__file__).parents[2] / p) for p in ("proto", "gateway", "worker")),
]

from figures import emit, machine
from gateway_comparison import Plan, compare
from gateway_load import INTERVAL, PROMPT_IDS, TOKENS, Direct, Meter, Sample, Through, load, measured
from gateway_rates import cpu_text, highest_rate
from gateway_stack import gateway_stack
from other_tree import THIS_TREE

from roost.contract.steps import Deltas
from roost.v1 import session_service_pb2 as pb


def added(through: Sample, direct: Sample) -> dict[str, Any]:
    """Percentiles through the gateway, directly, and their difference."""
    return {
        "added_ms": through.added_to(direct),
        "through_ms": through.percentiles(),
        "direct_ms": direct.percentiles(),
        "new_sessions_ms": through.new_sessions,
        "steps": len(through.step),
        "achieved_steps_per_second": round(through.achieved, 1),
        "saturated": through.saturated,
        "direct_saturated": direct.saturated,
        "shed": through.shed,
        "messages_per_second": round(through.messages / through.seconds),
        "cpu_ms_per_step": through.cpu_ms,
        "generator_late_ms": round(through.late, 1),
    }


async def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    interval = 1 / arguments.tokens_per_second
    report = _head(arguments, interval)
    if arguments.against:
        rounds, seconds, rate = (1, 3.0, 20.0) if arguments.quick else (arguments.rounds, 15.0, 50.0)
        plan = Plan(rounds, rate, [rate, *_ladder(arguments)], seconds, interval, arguments.even)
        return {**report, **await compare(arguments.against, plan, arguments.redis_dir)}
    deltas = pb.Deltas.Value(f"DELTAS_{arguments.deltas.upper()}")
    async with (
        gateway_stack(THIS_TREE, arguments.redis_dir, interval) as stack,
        aclosing(Direct(stack.worker, deltas)) as direct,
        aclosing(Through(stack.gateway, deltas)) as through,
    ):
        return {**report, **await _measure(arguments, interval, direct, through, stack.meter)}


def _ladder(arguments: argparse.Namespace) -> list[float]:
    return [75.0, 100.0] if arguments.quick else [75.0, 100.0, 125.0, 150.0, 175.0, 200.0, 250.0, 300.0, 400.0]


def _head(arguments: argparse.Namespace, interval: float) -> dict[str, Any]:
    return {
        "benchmark": "gateway",
        "machine": f"{machine()}, grpcio {grpc.__version__}",
        "script": {
            "tokens": TOKENS,
            "deltas": "all" if arguments.against else arguments.deltas,
            "interval_ms": interval * 1e3,
            "prompt_ids": PROMPT_IDS,
            "redis": "appendfsync always",
            "arrivals": "even" if arguments.even else "random",
        },
        "redis_dir": arguments.redis_dir,
    }


async def _measure(
    arguments: argparse.Namespace, interval: float, direct: Direct, through: Through, meter: Meter
) -> dict[str, Any]:
    seconds, usual = (3.0, [20.0, 50.0]) if arguments.quick else (15.0, [50.0, 200.0])
    rates = arguments.rates or usual
    report: dict[str, Any] = {"rates": {}}
    for rate in rates:
        _, alone = await load(rate, seconds, direct.step, interval=interval, even=arguments.even)
        sample = await measured(rate, seconds, through, meter, interval=interval, even=arguments.even)
        result = added(sample, alone)
        report["rates"][f"{rate:.0f}"] = result
        for name, cuts in result["added_ms"].items():
            print(
                f"{rate:5.0f} steps/s  {name:5}  added p50 {cuts['p50']:7.2f} ms  p99 {cuts['p99']:7.2f} ms", flush=True
            )
        print(f"{rate:5.0f} steps/s  CPU a step: {cpu_text(result['cpu_ms_per_step'])}", flush=True)
        if result["saturated"]:
            print(f"{rate:5.0f} steps/s  SATURATED: {result['achieved_steps_per_second']} steps/s ended", flush=True)
    if arguments.deltas == Deltas.EACH and not arguments.rates:
        seconds = min(seconds, 8.0)
        report["highest"] = await highest_rate(
            _ladder(arguments), seconds, through, meter, interval=interval, even=arguments.even
        )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short run that checks the benchmark itself")
    parser.add_argument("--tokens-per-second", type=float, default=1 / INTERVAL, help="of each step")
    parser.add_argument("--deltas", default="interval", choices=[member.value for member in Deltas])
    parser.add_argument("--rates", type=float, nargs="+", help="steps a second, in place of 20 and 50, or 50 and 200")
    parser.add_argument("--against", metavar="COMMIT", help="compare with the gateway of another commit")
    parser.add_argument("--rounds", type=int, default=3, help="of a comparison (default 3)")
    parser.add_argument("--even", action="store_true", help="begin steps evenly: at 50/s in step with the deltas")
    parser.add_argument("--redis-dir", default="/tmp", help="folder of Redis's append-only file; a real disk")
    emit(uvloop.run(bench(parser.parse_args())))


if __name__ == "__main__":
    main()
