"""What rebuilding sessions ahead of their returns gains and wastes, on the real engine with a virtual clock.

Agents take turns on one worker (costs of an 8B model, 4e-5 s a token and the quadratic term) without end: those of the
generator, with contexts of at most 60,000 tokens and gaps of at most 600 s, or such whose every turn calls a tool that
takes a minute or so (`long-tools`: half of them 60 s and more; 20,000 to 60,000 tokens). Clients hold a session for its
tool and promise how long that takes, wrong by a factor whose logarithm has the deviation `--error`. The engine is
production's (scheduler, cache, retention), and so is what a gateway decides (`moving.paused`). What is between them is
not here: the gateway looks twice a second, and sees a worker as it was at the last full second.

    python tests/benchmarks/bench_rebuilds_ahead.py [--cells WORKLOAD:AGENTSxKV,...] [--policies LRU,LearnedReturns]
        [--steps 500] [--error 0.3] [--seeds 1]

Recomputed are logs' tokens that a step had to compute again. The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import math
import random
import statistics
import sys
from array import array
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("proto", "gateway", "worker", "operator", "tests/support")]

from figures import emit, machine

from engine_on_virtual_time import EngineOnVirtualTime
from roost.contract.lease import WorkerLease
from roost.store.holds import HoldRecord
from roost.store.residency import Residency
from roost_gateway.moving.paused import PausedSession, PausedSessions
from roost_gateway.routing.choice import WorkerState
from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.figures import percentiles
from roost_gateway.simulator.generator import fitted_parameters, generate
from roost_gateway.simulator.workload import ALL_TOKENS, Session, Turn, with_capped_gaps
from roost_worker.engine.messages import (
    BACKGROUND,
    Cancel,
    Hold,
    Outputs,
    Pause,
    RequestOutput,
    SamplingParams,
    StopReason,
    Submit,
)
from roost_worker.engine.policies import POLICIES
from roost_worker.server.rebuilt_ahead import RebuiltAhead

BLOCK_TOKENS, CONTEXT, MAX_RUNNING = 64, 60_000, 32
LONGEST_GAP_SECONDS = 600.0
LOOK_SECONDS, PUBLISH_SECONDS = 0.5, 1.0
COSTS = WorkerCosts()


class Worker(EngineOnVirtualTime):
    """An engine whose sessions are rebuilt ahead while it is idle, if `ahead` is true."""

    def __init__(self, kv_tokens: int, policy: str, *, ahead: bool, error: float, seed: int) -> None:
        retention = POLICIES[policy](COSTS.pair_cost)
        super().__init__(COSTS, kv_tokens, BLOCK_TOKENS, CONTEXT + 4096, MAX_RUNNING, retention)
        self._rebuilds, self._error, self._noise = ahead, error, random.Random(seed)
        self._paused = PausedSessions()
        self._cached: dict[str, int] = {}
        self._requests = map("ahead-{}".format, count())
        self._session = ""
        """That is being rebuilt, by the request of the newest number."""
        self._request = ""
        self._idle_since: float | None = 0.0
        self.ahead = RebuiltAhead()
        self.idle_seconds = self.recomputed_seconds = 0.0
        self.rebuilds = 0
        lease = WorkerLease("home", "1", "home:1", "m", "1", kv_tokens, MAX_RUNNING, idle=True)
        self._home = WorkerState(replace(lease, prefill_rate=1 / COSTS.prefill_token_seconds))

    @property
    def now(self) -> float:
        return self._runner.now

    @property
    def ttfts(self) -> list[float]:
        return self._ttfts

    def _hold(self, name: str) -> None:
        expect = self._turn[name].gap_seconds * self._noise.lognormvariate(0.0, self._error)
        self._engine.handle(Hold(name, expect))
        hold = HoldRecord("tool", expect, 0)
        self._paused.add(PausedSession(name, "", "home", len(self._contexts[name]), hold, self.now))

    def _submit(self, name: str, time: float) -> None:
        if self._session:
            self._engine.handle(Cancel(self._request))
        self._idle_since = None
        for paused in self._expected():
            if paused.session_id == name:
                self._paused.discard(paused)
        super()._submit(name, time)

    def _pass_idle_time(self, arrival: float) -> None:
        """Go on to the next look, or to the next arrival."""
        if self._idle_since is None:
            self._idle_since = self.now
        look = (math.floor(self.now / LOOK_SECONDS) + 1) * LOOK_SECONDS
        before = self.now
        self._runner.now = min(arrival, look) if self._rebuilds and len(self._paused) else arrival
        self.idle_seconds += self.now - before
        if self.now < arrival and self._idle_since <= math.floor(self.now / PUBLISH_SECONDS) * PUBLISH_SECONDS:
            self._look()

    def _expected(self) -> list[PausedSession]:
        return self._paused.expected([self._home], self.now).get("home", [])

    def _look(self) -> None:
        expected = self._expected()
        cached = {paused.session_id: Residency("home", self._cached.get(paused.session_id, 0)) for paused in expected}
        paused = self._paused.first_to_rebuild(expected, cached, self._home, self.now)
        if paused is None:
            return
        ids, sampling = self._contexts[paused.session_id][:], SamplingParams(max_tokens=1)
        pause = Pause(self.now - paused.begin, paused.hold.expect_seconds, paused.hold.tool)
        self._session, self._request = paused.session_id, next(self._requests)
        self._chosen = paused
        self._engine.handle(
            Submit(self._request, ids, len(ids), sampling, b"key", self._session, None, BACKGROUND, "", pause)
        )

    def _take_all(self, outputs: Outputs) -> None:
        for output in outputs.outputs:
            if output.request_id == self._request and output.stop:
                self._take_rebuilt(output)
            else:
                if output.cached_tokens is not None:
                    self._take_first(output)
                self._take(output)
        for session, _ in outputs.dropped:
            self._cached.pop(session, None)
        self._cached.update(outputs.parked)
        for session in {name for name, _ in (*outputs.parked, *outputs.dropped)}:
            self.ahead.keep(session, self._cached.get(session, 0))

    def _take_first(self, output: RequestOutput) -> None:
        """Take the first output of a step. What its log had is lost but for the cached tokens."""
        name, cached = output.request_id, output.cached_tokens or 0
        self.ahead.use(name, cached)
        log = len(self._contexts[name]) - self._turn[name].new_tokens
        self.recomputed_seconds += COSTS.prefill_seconds(max(0, log - 1 - cached), cached)

    def _take_rebuilt(self, output: RequestOutput) -> None:
        self.ahead.add(self._session, output.cached_tokens or 0, output.computed_tokens)
        self._session = ""
        if output.stop is StopReason.CANCELLED:
            self._paused.pass_over(self._chosen, self.now)
        else:
            self.rebuilds += 1
            self._paused.discard(self._chosen)
            self._idle_since = self.now


def generated(seed: int) -> Iterator[Session]:
    parameters = replace(fitted_parameters(), longest_context=CONTEXT)
    return (with_capped_gaps(session, LONGEST_GAP_SECONDS) for session in generate(parameters, seed))


def long_tools(seed: int) -> Iterator[Session]:
    draws = random.Random(seed)
    for number in count():
        first = Turn(0, draws.randrange(20_000, 40_000), 100, draws.uniform(0, 60), calls_tool=True)
        gaps = (draws.lognormvariate(math.log(60), 0.7) for _ in range(20))
        yield Session(f"long-{number}", (first, *(Turn(ALL_TOKENS, 900, 100, gap, calls_tool=True) for gap in gaps)))


WORKLOADS = {"generated": generated, "long-tools": long_tools}


def simulated(cell: str, policy: str, seed: int, *, ahead: bool, options: argparse.Namespace) -> dict[str, float]:
    workload, _, sizes = cell.partition(":")
    agents, kv_tokens = map(int, sizes.split("x"))
    worker = Worker(kv_tokens, policy, ahead=ahead, error=options.error, seed=seed)
    figures = worker.run(WORKLOADS[workload](seed), agents, options.steps)
    ttft = percentiles(array("d", worker.ttfts))
    rebuilt = worker.ahead.rebuilt
    return {
        "hit_ratio": round(figures.hit_ratio, 4),
        "recomputed_seconds": round(worker.recomputed_seconds, 1),
        "ttft_p50": round(ttft.p50, 3),
        "ttft_p95": round(ttft.p95, 3),
        "steps_per_second": round(figures.steps_per_second, 3),
        "idle_share": round(worker.idle_seconds / worker.now, 3),
        "rebuilds": worker.rebuilds,
        "rebuilt_tokens": rebuilt,
        "used": round(worker.ahead.used / rebuilt, 3) if rebuilt else 0.0,
        "wasted": round(worker.ahead.wasted / rebuilt, 3) if rebuilt else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="generated:10x200000,long-tools:16x400000,long-tools:24x400000")
    parser.add_argument("--policies", default="LRUSparingHeld,LearnedReturns")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--error", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    cells: dict[str, Any] = {}
    for cell, policy, ahead in product(options.cells.split(","), options.policies.split(","), (False, True)):
        runs = [simulated(cell, policy, seed, ahead=ahead, options=options) for seed in range(options.seeds)]
        row = {name: round(statistics.mean(run[name] for run in runs), 4) for name in runs[0]}
        name = f"{cell} {policy} {'ahead' if ahead else 'on demand'}"
        cells[name] = row
        print(f"{name:55} {row}", flush=True)
    emit({"machine": machine(), "options": vars(options), "cells": cells})


if __name__ == "__main__":
    main()
