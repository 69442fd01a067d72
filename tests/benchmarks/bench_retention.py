"""Retention policies on real agents' sessions, in simulation: how much KV is reused, what is computed again.

Cells are a number of agents and a worker's KV. In each, agents take the held-out half of a file of sessions, those of
at most 128,000 tokens, in an order drawn by seed, one after the other, without end; gaps are capped at 600 s, a system
prompt is shared by all, blocks have 64 tokens, and a session's KV is freed when it ends. Costs are those of an 8B model
(4e-5 s a token, and the quadratic term). Policies are tuned on the other half, which `--half tuning` shows. A half has
about 2,000 steps of such sessions: in the first so many no session comes twice, later ones could be known again.

With `--engine recorded` a step takes as long as the trace says, so that requests come at the same times under every
policy, Belady is the optimum, and figures are of the cache alone. With `--engine batched` the worker computes what is
missing, steps wait for it, and a policy changes when requests come.

    python tests/benchmarks/bench_retention.py --sessions FILE [--engine recorded] [--steps 20000] [--seeds 3]
        [--half held-out]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("proto", "gateway", "worker")]

from figures import emit, machine, spread

from roost_gateway.simulator.arrivals import ClosedLoop, shuffled_forever
from roost_gateway.simulator.figures import Report
from roost_gateway.simulator.fit import halves
from roost_gateway.simulator.formats.load import load
from roost_gateway.simulator.policies import NAMES, ORACLE, policy_factory
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_gateway.simulator.worker import WorkerSettings
from roost_gateway.simulator.workload import Session, longest_context, with_capped_gaps

CELLS = ((16, 400_000), (32, 400_000), (32, 780_000), (64, 780_000), (64, 1_560_000))
LONGEST_CONTEXT = 128_000
LONGEST_GAP_SECONDS = 600.0
BASELINE = "LRU"


def sessions_of(path: Path, half: str) -> list[Session]:
    """The sessions of the cells: agents without their subagents."""
    tuning, held_out = halves(session for session in load("agent-sessions", path) if "/" not in session.name)
    chosen = tuning if half == "tuning" else held_out
    short = [session for session in chosen if longest_context(session) <= LONGEST_CONTEXT]
    return [replace(with_capped_gaps(session, LONGEST_GAP_SECONDS), prefix="system") for session in short]


def simulated(
    sessions: list[Session], agents: int, kv_tokens: int, policy: str, seed: int, options: argparse.Namespace
) -> Report:
    settings = WorkerSettings(kv_tokens=kv_tokens, recorded_times=options.engine == "recorded")
    arrivals = ClosedLoop(shuffled_forever(sessions, seed), agents, ramp_seconds=60.0)
    return Simulation(Fleet(1, settings), policy_factory(settings, policy), arrivals).run(options.steps)


def figures_of(reports: list[Report]) -> dict[str, Any]:
    """The figures of a policy in a cell over its seeds."""
    return {
        "hit_ratio": spread([report.hit_ratio for report in reports], 4),
        "recomputed_per_useful_second": spread([r.recomputed_seconds / r.prefill_seconds for r in reports], 2),
        "recomputed_seconds": spread([report.recomputed_seconds for report in reports]),
        "ttft_p95_seconds": spread([report.ttft.p95 for report in reports], 2),
        "seeds": [asdict(report) for report in reports],
    }


def closed_share(reports: dict[str, list[Report]], policy: str) -> float:
    """How much of the way from LRU to Belady a policy goes in hit ratio, in the mean of the seeds."""
    mean = {name: statistics.mean(report.hit_ratio for report in reports[name]) for name in (policy, BASELINE, ORACLE)}
    return round((mean[policy] - mean[BASELINE]) / (mean[ORACLE] - mean[BASELINE]), 3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", type=Path, required=True)
    parser.add_argument("--engine", choices=("recorded", "batched"), default="recorded")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--half", choices=("held-out", "tuning"), default="held-out")
    options = parser.parse_args()
    sessions = sessions_of(options.sessions, options.half)
    print(
        f"{len(sessions)} {options.half} sessions, {options.engine} times, {options.steps} steps, {options.seeds} seeds"
    )
    cells: list[dict[str, Any]] = []
    for agents, kv_tokens in CELLS:
        reports = {
            policy: [simulated(sessions, agents, kv_tokens, policy, seed, options) for seed in range(options.seeds)]
            for policy in NAMES
        }
        endless = statistics.mean(report.endless_cache_hit_ratio for report in reports[BASELINE])
        print(f"{agents} agents, {kv_tokens:,} tokens; an endless cache has {endless:.1%}")
        policies = {policy: figures_of(reports[policy]) for policy in NAMES}
        for policy, values in policies.items():
            share = values["closed_share"] = closed_share(reports, policy)
            print(
                f"  {policy:15} hit {values['hit_ratio']['median']:6.1%} "
                f"({values['hit_ratio']['lowest']:.1%} to {values['hit_ratio']['highest']:.1%}), "
                f"recomputed {values['recomputed_seconds']['median']:,.0f} s "
                f"({values['recomputed_seconds']['lowest']:,.0f} to {values['recomputed_seconds']['highest']:,.0f}; "
                f"{values['recomputed_per_useful_second']['median']:.2f} per useful second), "
                f"TTFT p95 {values['ttft_p95_seconds']['median']:.1f} s, {share:.0%} of the way to Belady"
            )
        cells.append({"agents": agents, "kv_tokens": kv_tokens, "endless_hit_ratio": endless, "policies": policies})
    emit({"machine": machine(), "engine": options.engine, "half": options.half, "steps": options.steps, "cells": cells})


if __name__ == "__main__":
    main()
