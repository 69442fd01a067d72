"""Working-set admission in simulation, in the setting of a public measurement of a session gate.

Four workers of 2.24 million KV tokens, agents' sessions without end (the generator, contexts of at most 200,000
tokens), think time capped at 10 s, always so many sessions per worker. Arms: no gate, a static cap of sessions, a gate
like llm-d's (a tick of 5 s, the smallest first, let in after 1,800 s), and production's working set, with one and with
four gateways, which lets held steps in after 120 s or refuses them. Costs are those of the measurement's model, from
its sizes and the machine's rates.

The second part is a synchronized return: 200 agents with logs of 40,000 tokens, whose KV is gone, come back within a
second to workers that can hold a quarter of these, and take three steps each.

    python tests/benchmarks/bench_working_set.py [--seconds 1800] [--sessions 16,32,128] [--seeds 1] [--arms NAME]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("proto", "gateway", "worker")]

from figures import emit, machine

from roost_gateway.simulator.arrivals import ClosedLoop
from roost_gateway.simulator.costs import qwen3_coder_30b_a3b
from roost_gateway.simulator.figures import Report
from roost_gateway.simulator.gates import gate_factory
from roost_gateway.simulator.generator import fitted_parameters, generate
from roost_gateway.simulator.policies import policy_factory
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_gateway.simulator.worker import WorkerSettings
from roost_gateway.simulator.workload import ALL_TOKENS, Session, Turn, with_capped_gaps

WORKERS = 4
KV_TOKENS = 2_240_000
LONGEST_GAP_SECONDS = 10.0
LONGEST_CONTEXT = 200_000
COSTS = qwen3_coder_30b_a3b()
RETURNING, RETURN_SECONDS, RETURN_TOKENS = 200, 1.0, 40_000


@dataclass(frozen=True, slots=True)
class Arm:
    name: str
    admission: str
    refuses: bool = False
    gateways: int = 1


ARMS = (
    Arm("none", "none"),
    Arm("static 16", "static:16"),
    Arm("ticking gate", "gate"),
    Arm("working set, Admit", "working-set"),
    Arm("working set, Refuse", "working-set", refuses=True),
    Arm("working set, Refuse, 4 gateways", "working-set", refuses=True, gateways=4),
)


def fleet_of(arm: Arm, kv_tokens: int = KV_TOKENS) -> Fleet:
    settings = WorkerSettings(kv_tokens=kv_tokens, costs=COSTS)
    gate = gate_factory(arm.admission)
    return Fleet(WORKERS, settings, gate=gate, refuses_held=arm.refuses, gateways=arm.gateways)


def simulated(arm: Arm, per_worker: int, seconds: float, seed: int) -> Report:
    parameters = replace(fitted_parameters(), longest_context=LONGEST_CONTEXT)
    sessions = (with_capped_gaps(session, LONGEST_GAP_SECONDS) for session in generate(parameters, seed))
    arrivals = ClosedLoop(sessions, per_worker * WORKERS, ramp_seconds=60.0)
    fleet = fleet_of(arm)
    return Simulation(fleet, policy_factory(fleet.settings, "LRU"), arrivals).run(max_seconds=seconds)


def returning_sessions() -> Iterator[Session]:
    """Each has a log without KV, and takes three steps."""
    for number in range(RETURNING):
        back = Turn(0, RETURN_TOKENS, 200, calls_tool=True)
        further = Turn(ALL_TOKENS, 500, 200, gap_seconds=2.0, calls_tool=True)
        yield Session(f"agent-{number}", (back, further, further))


def synchronized_return(arm: Arm) -> Report:
    kv_tokens = RETURNING * RETURN_TOKENS // WORKERS // 4
    arrivals = ClosedLoop(returning_sessions(), RETURNING, ramp_seconds=RETURN_SECONDS)
    fleet = fleet_of(arm, kv_tokens)
    return Simulation(fleet, policy_factory(fleet.settings, "LRU"), arrivals).run()


def row_of(reports: list[Report]) -> dict[str, float]:
    """Medians over the seeds."""

    def median(of: str, digits: int = 1) -> float:
        return round(statistics.median(getattr(report, of) for report in reports), digits)

    return {
        "tokens_per_second": median("output_tokens_per_second", 0),
        "goodput_tokens_per_second": median("goodput_tokens_per_second", 0),
        "hit_ratio": median("hit_ratio", 3),
        "ttft_p99_seconds": round(statistics.median(report.ttft.p99 for report in reports), 1),
        "held_steps": median("held_steps", 0),
        "forced_steps": median("forced_steps", 0),
        "longest_hold_seconds": median("longest_hold"),
        "hold_size_correlation": median("hold_size_correlation", 2),
        "refusals": median("refusals", 0),
        "simulated_seconds": median("simulated_seconds", 0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--sessions", default="16,32,128", help="per worker")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", default="", help="those whose names contain this")
    options = parser.parse_args()
    cells: dict[str, Any] = {}
    arms = [arm for arm in ARMS if options.arms in arm.name]
    for arm in arms:
        for per_worker in map(int, options.sessions.split(",")):
            reports = [simulated(arm, per_worker, options.seconds, seed) for seed in range(options.seeds)]
            row = cells[f"{arm.name}, {per_worker}"] = row_of(reports)
            print(f"{arm.name:32} {per_worker:4} {row}", flush=True)
    returns = {arm.name: row_of([synchronized_return(arm)]) for arm in arms if not arm.admission.startswith("static")}
    for name, row in returns.items():
        print(f"return of {RETURNING}: {name:32} {row}", flush=True)
    emit({"machine": machine(), "seconds": options.seconds, "cells": cells, "synchronized_return": returns})


if __name__ == "__main__":
    main()
