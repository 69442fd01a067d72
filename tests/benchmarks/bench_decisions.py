"""What one decision costs: routing, admission, retention; pools of 10 to 1,000 workers and 10^3 to 10^6 sessions.

- Routing: `Workers.choose` for a new session, for one with KV at its home, and for steps that have to pass the gate of
  the working set (it is open elsewhere, the step waits at home, it is closed everywhere), with `note_reserved`.
- Admission: a step enters a line in which as many wait as there are sessions (100 tenants), the first of the line is
  looked up, and admitted.
- Budgets: the rules of a step and their text for the store's scripts, with and without budgets.
- Retention: a session of one worker returns and pauses again, and the next victim is looked up. Each worker has its
  share of the sessions.
- Scripts: Redis's own time of a Reserve and of a Commit, where all sessions are live in the pool's working set
  (`decision_scripts.py`).

Figures are microseconds of the thread's CPU time, so that other load on the machine counts for little.

    python tests/benchmarks/bench_decisions.py [--quick]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import gc
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(Path(__file__).parents[1] / "support"),
    *(str(Path(__file__).parents[2] / part) for part in ("proto", "gateway", "worker", "operator")),
]

from decision_scripts import ScriptTimes
from figures import emit, machine, percentiles

from leases import lease_of
from redis_servers import RedisServer
from roost.contract.budgets import BudgetLimits, RoleBudgets
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.pool_document import PoolDocument, PoolRole
from roost.store.budget_requests import budget_rules
from roost.store.memory import MemoryStore
from roost_gateway.admission.admission_queue import AdmissionQueue
from roost_gateway.admission.waiting_line import Ticket
from roost_gateway.fleet.workers import Workers
from roost_gateway.routing.choice import StepNeed
from roost_worker.engine.eviction_order import EvictionOrder
from roost_worker.engine.policies import POLICIES
from roost_worker.engine.retention import Candidate, Return

POOL = "bench/pool"
WORKERS = (10, 100, 1_000)
SESSIONS = (1_000, 10_000, 100_000, 1_000_000)
SAMPLES = 2_000
LOG_TOKENS, NEW_TOKENS = 40_000, 1_000
KV_TOKENS = 2_000_000
TENANTS = 100
PAUSE_SECONDS = 30.0
"""Mean pause of a session. Divided by the sessions at a worker, it is the time between two decisions there."""
PAIR_COST = 1e-5
"""Of an 8B model, as `RunnerInfo.pair_cost`."""


def microseconds(decide: Callable[[], object], samples: int = SAMPLES) -> dict[str, float]:
    """p50 and p99 of the thread's CPU time of one decision."""
    times = []
    for _ in range(samples):
        began = time.thread_time_ns()
        decide()
        times.append((time.thread_time_ns() - began) / 1_000)
    return percentiles(times)


class RoutingWorld:
    """The workers of one pool as a gateway knows them, a third of their KV reserved."""

    def __init__(self, workers: int, sessions: int) -> None:
        self._count, self._sessions, self._random = workers, sessions, random.Random(0)
        store = MemoryStore()
        for number in range(workers):
            rate = self._random.uniform(7_000.0, 9_000.0)
            lease = lease_of(f"w{number}", capacity_tokens=KV_TOKENS, max_running=256, prefill_rate=rate)
            store.publish(POOL, lease, round(LEASE_TTL_SECONDS * 1_000_000))
        self._workers = Workers(store)
        asyncio.run(self._workers.read(POOL))
        for number in range(workers):
            self._workers.note_reserved(POOL, f"w{number}", self._random.randrange(KV_TOKENS // 3), 0, 0)

    def fill_working_set(self, full: int) -> None:
        """Live sessions leave no room at the first `full` workers."""
        for worker in self._workers.states(POOL)[:full]:
            self._workers.note_reserved(POOL, worker.worker_id, 0, worker.live_limit + 1, 0)

    def choose_and_reserve(self, *, at_home: bool = False, gate_seconds: float | None = None) -> None:
        number = self._random.randrange(self._sessions)
        home = f"w{number % self._count}" if at_home else ""
        need = StepNeed(f"{POOL}/s{number}", "", LOG_TOKENS, NEW_TOKENS, {home: LOG_TOKENS} if at_home else {}, home)
        choice = self._workers.choose(POOL, need, frozenset(), gate_seconds)
        assert choice is not None, "some worker serves every step"
        self._workers.note_reserved(POOL, choice.worker.worker_id, 1, 0, 0)


def routing_cell(workers: int, sessions: int) -> dict[str, Any]:
    world = RoutingWorld(workers, sessions)
    figures = {
        "new": microseconds(world.choose_and_reserve),
        "at_home": microseconds(lambda: world.choose_and_reserve(at_home=True)),
    }
    world.fill_working_set(full=workers // 2)
    figures["gate_open_elsewhere"] = microseconds(lambda: world.choose_and_reserve(gate_seconds=0.1))
    world.fill_working_set(full=workers)
    figures["gate_waits_at_home"] = microseconds(lambda: world.choose_and_reserve(at_home=True, gate_seconds=0.1))
    figures["gate_closed_everywhere"] = microseconds(lambda: world.choose_and_reserve(gate_seconds=0.1))
    return figures


def tickets() -> Iterator[Ticket]:
    """Steps that arrive one ms after another, of many tenants, with deadlines between 1 and 10 minutes."""
    chance = random.Random(0)
    for number in count():
        now = number / 1_000
        yield Ticket(
            f"tenant-{chance.randrange(TENANTS)}", 0, chance.random() < 0.9, now, now + chance.uniform(60, 600)
        )


def admission_cell(waiting: int) -> dict[str, Any]:
    """The line keeps its length: each step that is admitted makes room for the next."""
    queue, arrivals = AdmissionQueue(), tickets()
    served: Counter[str] = Counter()

    def arrive() -> Ticket:
        ticket = next(arrivals)
        queue.step_came(ticket.tenant, served[ticket.tenant])
        queue.push(ticket, waiting + 1)
        return ticket

    for _ in range(waiting):
        arrive()

    def decide() -> None:
        ticket = arrive()
        first = queue.first("", ticket.enqueued)
        assert first is not None, "steps wait"
        queue.admit(first, ticket.enqueued)
        served[first.tenant] += 1
        queue.learn(first.tenant, served[first.tenant])
        queue.step_left(first.tenant)

    return microseconds(decide)


def budgets_cell() -> dict[str, Any]:
    limits = BudgetLimits(tokens=1_000_000, steps=500)
    plain = PoolDocument(POOL, roles=(PoolRole("coder", 0),))
    limited = PoolDocument(
        POOL, roles=(PoolRole("coder", 0, budgets=RoleBudgets(session=limits, task=limits)),), tenant_budget=limits
    )
    tasks = cycle(f"task-{number}" for number in range(1_000))
    return {
        name: microseconds(lambda pool=pool: budget_rules("tenant", next(tasks), pool.roles[0], pool).encode())
        for name, pool in (("without", plain), ("with", limited))
    }


class RetentionWorld:
    """The paused sessions of one worker, in the order of a policy."""

    def __init__(self, policy: str, sessions: int) -> None:
        self._policy, self._random, self._now = POLICIES[policy](PAIR_COST), random.Random(0), 0.0
        self._order, self._sessions = EvictionOrder(self._policy), sessions
        for number in range(sessions):
            self._pass_time()
            self._pause(number)

    def decide(self) -> None:
        """A session returns, runs and pauses again; then room is needed."""
        self._pass_time()
        number = self._random.randrange(self._sessions)
        key = f"s{number}"
        used = self._order.candidate(key)
        self._order.remove(key)
        self._policy.came_back(Return(key, self._now, LOG_TOKENS, LOG_TOKENS, (used,)), self._now)
        self._pause(number)
        self._order.first(self._now)

    def _pass_time(self) -> None:
        self._now += PAUSE_SECONDS / self._sessions

    def _pause(self, number: int) -> None:
        held = self._now + 60.0 if number % 2 else 0.0
        candidate = Candidate(
            f"s{number}", self._now, held, tokens=LOG_TOKENS, tool=f"tool-{number % 20}" if held else ""
        )
        self._order.put(f"s{number}", candidate, self._now)


def retention_cell(policy: str, sessions: int) -> dict[str, Any]:
    world = RetentionWorld(policy, sessions)
    return microseconds(world.decide)


def cells(worker_counts: tuple[int, ...], session_counts: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    for workers in worker_counts:
        for sessions in session_counts:
            share = max(1, sessions // workers)
            yield {
                "workers": workers,
                "sessions": sessions,
                "routing": routing_cell(workers, sessions),
                "retention": {policy: retention_cell(policy, share) for policy in ("LRU", "LearnedReturns")},
                "sessions_per_worker": share,
            }


def script_cells(worker_counts: tuple[int, ...], session_counts: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    with RedisServer({"appendfsync": "no"}) as redis:
        for workers in worker_counts:
            for sessions in session_counts:
                yield {"workers": workers, "sessions": sessions, **asyncio.run(ScriptTimes(redis, workers, sessions)())}


def show(title: str, figures: dict[str, Any]) -> None:
    parts = (f"{name} {of['p50']:.1f} / {of['p99']:.1f}" for name, of in figures.items())
    print(f"{title}: {', '.join(parts)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short run that checks the benchmark itself")
    options = parser.parse_args()
    worker_counts, session_counts = (WORKERS[:2], SESSIONS[:1]) if options.quick else (WORKERS, SESSIONS)
    gc.disable()
    print("microseconds of CPU, p50 / p99")
    pure = []
    for cell in cells(worker_counts, session_counts):
        title = f"{cell['workers']:,} workers, {cell['sessions']:,} sessions"
        show(f"{title}: routing", cell["routing"])
        show(f"{title}: retention, {cell['sessions_per_worker']:,} at a worker", cell["retention"])
        pure.append(cell)
    admission = {str(waiting): admission_cell(waiting) for waiting in session_counts}
    show("admission, by steps that wait", admission)
    budgets = budgets_cell()
    show("budgets of a step", budgets)
    scripts = list(script_cells(worker_counts, session_counts))
    for cell in scripts:
        show(f"{cell['workers']:,} workers, {cell['sessions']:,} live sessions: scripts", cell["scripts"])
    emit(
        {
            "benchmark": "decisions",
            "machine": machine(),
            "cpu_seconds": round(time.process_time(), 1),
            "cells": pure,
            "admission": admission,
            "budgets": budgets,
            "scripts": scripts,
        }
    )


if __name__ == "__main__":
    main()
