"""What moving sessions away from a busy worker gains when another one idles, in simulation.

Agents begin while a pool has one worker; after `--join` seconds others join it. Routing sends a session elsewhere only
when its home has no room, so that the home stays busy. Agents are the generator's, with contexts of at most 60,000
tokens and gaps of at most `--longest-gap` seconds; workers have the costs of an 8B model, run 8 steps at once and hold
all sessions' KV. Who is relieved and which session moves is production's (`moving.balance`), looked at twice a second;
a rebuild runs as a prompt of the new home. Figures are of the steps that came after the others joined.

    python tests/benchmarks/bench_balance.py [--cells 16x2,24x4] [--seconds 900] [--seeds 3]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import statistics
import sys
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("proto", "gateway", "worker")]

from figures import emit, machine

from roost.store.moves import Resident
from roost_gateway.moving.balance import Imbalances, next_to_move
from roost_gateway.routing.choice import WorkerState
from roost_gateway.simulator.arrivals import ClosedLoop
from roost_gateway.simulator.figures import percentiles
from roost_gateway.simulator.generator import fitted_parameters, generate
from roost_gateway.simulator.job import Job
from roost_gateway.simulator.placement import Placement
from roost_gateway.simulator.policies import policy_factory
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_gateway.simulator.worker import SimulatedWorker, WorkerSettings
from roost_gateway.simulator.workload import Session, Turn, with_capped_gaps

CONTEXT, KV_TOKENS, SLOTS = 60_000, 4_000_000, 8
LOOK_SECONDS = 0.5
MOVE = "move"
"""Tenant of the jobs that compute a session at its new home."""


class JoinedPlacement(Placement):
    """One worker takes steps until the others join it."""

    def __init__(self, leases: Iterator[Any]) -> None:
        first, *others = leases
        super().__init__([first, *(replace(lease, draining=True) for lease in others)])

    @property
    def states(self) -> list[WorkerState]:
        return list(self._index.states.values())

    def join(self) -> None:
        for state in self.states:
            self._put(replace(state.lease, draining=False), state.reserved_tokens, state.reserved_attempts)

    def release(self, job: Job, waiting: int) -> None:
        if job.tenant != MOVE:
            super().release(job, waiting)


class Balanced(Simulation):
    """A pool that others join; `balance` says whether sessions move to them."""

    def __init__(self, fleet: Fleet, sessions: Iterator[Session], agents: int, join: float, *, balance: bool) -> None:
        super().__init__(fleet, policy_factory(fleet.settings), ClosedLoop(sessions, agents, ramp_seconds=30.0))
        self._joined, self._balance, self._costs = join, balance, fleet.settings.costs
        self._placement = self._placed_at = JoinedPlacement(fleet.leases())
        self._imbalances = Imbalances()
        self._running: set[str] = set()
        self._updated: dict[str, float] = {}
        self._moved_at: dict[str, float] = {}
        self._leaving: dict[str, str] = {}
        """Sessions that are just being moved, and from where."""
        self.ttfts, self.spreads = array("d"), array("d")
        self.moves = self.lost = 0
        """Sessions that moved, and rebuilds that a step came before."""
        self._clock.at(join, self._join)

    def _join(self) -> None:
        self._placed_at.join()
        self._look()

    def _look(self) -> None:
        self._clock.at(self._clock.now + LOOK_SECONDS, self._look)
        states = [self._as_published(state) for state in self._placed_at.states]
        steps = [state.reserved_attempts for state in states]
        self.spreads.append(max(steps) - min(steps))
        for relief in self._imbalances.observe(states, self._clock.now) if self._balance else ():
            if relief.busy.worker_id not in self._leaving.values():
                self._move_one(relief.busy.worker_id, relief.idle)

    def _as_published(self, state: WorkerState) -> WorkerState:
        worker = self.workers[state.worker_id]
        context = sum(life.context_tokens for life in self._lives.values()) / max(1, len(self._lives))
        seconds = self._costs.batch_seconds(worker.running, worker.running * context)
        lease = replace(state.lease, running=worker.running, waiting=worker.waiting, decode_rate=1 / seconds)
        return replace(state, lease=lease)

    def _move_one(self, busy: str, idle: WorkerState) -> None:
        lives = [(name, life) for name, life in self._lives.items() if life.owner == busy]
        residents = [
            Resident(
                name,
                "",
                busy,
                life.context_tokens,
                "",
                name in self._running,
                False,
                round(self._updated[name] * 1000),
                moved_ms=round(self._moved_at.get(name, 0.0) * 1000),
            )
            for name, life in lives
            if name in self._updated
        ]
        resident = next_to_move(residents, idle, round(self._clock.now * 1000))
        if resident is not None:
            self._leaving[resident.session_id] = busy
            life = self._lives[resident.session_id]
            turn, prefix = Turn(0, 1, 1), (life.session.prefix, life.shared_tokens)
            job = Job(resident.session_id, *prefix, 0, resident.log_tokens, turn, self._clock.now, True, MOVE)
            worker = self.workers[idle.worker_id]
            self._look_at(worker)
            worker.submit(job, self._clock.now)
            job.worker = idle.worker_id
            self._plan_wake(worker)

    def _arrive(self, job: Job) -> None:
        self._running.add(job.session)
        super()._arrive(job)

    def _take(self, job: Job, worker: SimulatedWorker) -> None:
        if job.tenant == MOVE:
            self._take_moved(job, worker)
            return
        self._running.discard(job.session)
        self._updated[job.session] = self._clock.now
        if job.submitted >= self._joined:
            self.ttfts.append(job.first_token - job.submitted)
        super()._take(job, worker)

    def _take_moved(self, job: Job, worker: SimulatedWorker) -> None:
        now, life = self._clock.now, self._lives.get(job.session)
        worker.park(job, now)
        del self._leaving[job.session]
        if life is None or job.session in self._running:
            worker.cache.drop(job.session, now)
            self.lost += 1
            return
        self.workers[life.owner].cache.drop(job.session, now)
        life.owner = job.worker
        self._moved_at[job.session] = now
        self.moves += 1


def simulated(cell: str, seed: int, *, balance: bool, options: argparse.Namespace) -> dict[str, float]:
    agents, workers = map(int, cell.split("x"))
    parameters = replace(fitted_parameters(), longest_context=CONTEXT)
    sessions = (with_capped_gaps(session, options.longest_gap) for session in generate(parameters, seed))
    fleet = Fleet(workers, WorkerSettings(kv_tokens=KV_TOKENS, max_running=SLOTS))
    pool = Balanced(fleet, sessions, agents, options.join, balance=balance)
    report = pool.run(max_seconds=options.seconds)
    ttft = percentiles(pool.ttfts)
    return {
        "steps": len(pool.ttfts),
        "ttft_p50": round(ttft.p50, 3),
        "ttft_p95": round(ttft.p95, 3),
        "ttft_p99": round(ttft.p99, 3),
        "steps_more_at_the_busiest": round(statistics.mean(pool.spreads), 2),
        "moved": pool.moves,
        "rebuilds_lost": pool.lost,
        "left_by_routing": report.moves,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="16x2,24x2,32x4", help="agents x workers")
    parser.add_argument("--join", type=float, default=300.0)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--longest-gap", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    cells: dict[str, Any] = {}
    for cell in options.cells.split(","):
        for balance in (False, True):
            runs = [simulated(cell, seed, balance=balance, options=options) for seed in range(options.seeds)]
            row = {name: round(statistics.mean(run[name] for run in runs), 3) for name in runs[0]}
            name = f"{cell} {'balanced' if balance else 'as routed'}"
            cells[name] = row
            print(f"{name:20} {row}", flush=True)
    emit({"machine": machine(), "options": vars(options), "cells": cells})


if __name__ == "__main__":
    main()
