"""What a simulation costs: seconds and memory for a number of workers, resident sessions and steps.

Sessions are those of the fitted generator, made small (at most 16,000 tokens) and idle (gaps 300 times as long), so
that workers keep up with so many. They do not end, and the last begins shortly before the simulation ends, so that all
are resident then. `--profile` prints where the time goes; it takes about three times as long then.

    python tests/benchmarks/bench_simulator.py [--workers 1000] [--sessions 1000000] [--steps 2000000] [--profile]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import cProfile
import pstats
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("proto", "gateway", "worker")]

from figures import emit, machine

from roost_gateway.simulator.arrivals import ClosedLoop
from roost_gateway.simulator.generator import After, Parameters, fitted_parameters, generate
from roost_gateway.simulator.policies import policy_factory
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_gateway.simulator.worker import WorkerSettings

LONGEST_CONTEXT = 16_000
LONGER_GAPS = 300.0
RAMP_SECONDS = 10.0
"""For each thousand sessions."""


def small_and_idle() -> Parameters:
    parameters = fitted_parameters()
    return replace(
        parameters,
        turns=tuple(turns + 1_000 for turns in parameters.turns),
        prefix_tokens=tuple(min(tokens, 4_000) for tokens in parameters.prefix_tokens),
        longest_context=LONGEST_CONTEXT,
        after_tool=_longer(parameters.after_tool),
        after_answer=_longer(parameters.after_answer),
    )


def _longer(after: After) -> After:
    return replace(after, gap_seconds=tuple(gap * LONGER_GAPS for gap in after.gap_seconds))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    settings = WorkerSettings(kv_tokens=2_000_000)
    loop = ClosedLoop(generate(small_and_idle(), 0), options.sessions, options.sessions * RAMP_SECONDS / 1_000)
    simulation = Simulation(Fleet(options.workers, settings), policy_factory(settings), loop)
    profile = cProfile.Profile()
    began, began_cpu = time.monotonic(), time.process_time()
    if options.profile:
        profile.enable()
    report = simulation.run(options.steps)
    profile.disable()
    seconds, cpu = time.monotonic() - began, time.process_time() - began_cpu
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{options.workers:,} workers, {simulation.resident_sessions:,} resident sessions, {report.steps:,} steps: "
        f"{seconds:.0f} s, {cpu:.0f} s of CPU ({cpu / report.steps * 1e6:.0f} us a step), {memory:.2f} GiB"
    )
    print(
        f"  simulated {report.simulated_seconds:,.0f} s, hit ratio {report.hit_ratio:.1%}, {report.moves:,} moves, "
        f"{report.refusals:,} refusals, TTFT p99 {report.ttft.p99:.2f} s"
    )
    emit(
        {
            "machine": machine(),
            "workers": options.workers,
            "resident_sessions": simulation.resident_sessions,
            "steps": report.steps,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu, 1),
            "cpu_us_per_step": round(cpu / report.steps * 1e6, 1),
            "peak_gib": round(memory, 2),
            "simulated_seconds": round(report.simulated_seconds),
            "hit_ratio": round(report.hit_ratio, 4),
        }
    )


if __name__ == "__main__":
    main()
