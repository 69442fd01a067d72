"""Retention, host memory and working-set admission on a running pool, whose KV is a third of what its sessions need.

Real Redis, gateways and a worker, each in a process of its own, `dummy://llama-tiny` in float32 on one thread, and
clients that replay sessions of the simulator's generator. Sizes are divided by 20 and pauses by 5, so that sessions of
up to 128,000 tokens have up to 6,400; the 20 tokens that the template adds to a turn are not divided. Nothing else is:
leases, the period of residency and the times of the working set are those of production. Each part replays the same
sessions in each of its arms, which take turns, and other sessions in each repeat:

- retention: 24 agents begin within 5 s and take 10 steps each, with pauses of at most 10 s. Arms: eviction policies,
  without host memory and with as much as there is KV memory.
- learning: the same with 20 steps each and KV for longer logs, without host memory, since a policy that learns how long
  sessions pause knows nothing at first.
- admission: 48 agents begin within 5 s and take 8 steps each, with pauses of at most 2 s, through two gateways. Arms:
  working-set admission off; on, with steps let in or refused after the longest hold, 120 s divided as pauses are.
- return: 200 agents with logs of 1,000 tokens and no KV come back within a second to a worker whose KV holds a quarter
  of their logs, and take three steps each. Arms as for admission.

Hit ratio is cached tokens of all tokens of context, rebuilt tokens are those of the log that were computed again: both
over continuations, which are steps after a session's first. Rebuild seconds are what they took of the engine's time, by
tokens of each batch. A session's seconds are those of its steps, without pauses.
Tokens are counted, not estimated, but what is evicted depends on when steps come; times are those of a machine that may
have other work.

Each arm has a pool of its own, where first one session for each gateway takes two steps that are not counted. A repeat
of all parts takes 7 minutes of CPU, and 18 and more of time, which is mostly pauses and starts.

    python tests/benchmarks/bench_real_stack.py [--quick] [--repeats 1] [--parts retention learning admission return]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2] / part) for part in ("proto", "gateway", "worker", "operator")]

import psutil
from figures import emit, machine, percentiles, spread
from replayed_agents import ROLE, SessionSample, replay
from scaled_sessions import PAUSES_DIVIDED_BY, scaled_sessions

from roost import Client, RetryConfig
from roost_gateway.simulator.workload import ALL_TOKENS, Session, Turn
from roost_operator.api.spec import AgentPool
from roost_operator.local.runner import LocalStack, StackOptions

CONTEXT_TOKENS = 8192
KV_BYTES_PER_TOKEN = 2 * 2 * 4 * 8 * 4
"""Of llama-tiny in float32: layers, K and V, KV heads, head dimension, bytes."""
KV_TOKENS = 28_672
LONGEST_HOLD_SECONDS = 120 // PAUSES_DIVIDED_BY
PATIENCE = RetryConfig(give_up_after=600.0)
"""Clients come back after every refusal."""


@dataclass(frozen=True, slots=True)
class Arm:
    """How the pool differs from those of other arms."""

    name: str
    policy: str = "LRUSparingHeld"
    host_tokens: int = 0
    working_set: str = "Off"
    on_hold: str = "Admit"


@dataclass(frozen=True, slots=True)
class Part:
    """Arms that replay the same sessions."""

    arms: tuple[Arm, ...]
    kv_tokens: int = KV_TOKENS
    gateways: int = 1
    agents: int = 24
    steps: int = 10
    longest_pause: float = 50.0
    """Before it is divided."""
    ramp_seconds: float = 5.0
    """Within which agents begin."""
    returns: bool = False
    """Whether agents come back with logs instead of beginning."""

    def sessions(self, seed: int) -> list[Session]:
        if self.returns:
            return [_returning(number) for number in range(self.agents)]
        return scaled_sessions(self.agents, self.steps, self.longest_pause, seed)


GATES = (
    Arm("off"),
    Arm("enforced, Admit", working_set="Enforced"),
    Arm("enforced, Refuse", working_set="Enforced", on_hold="Refuse"),
)
POLICIES = ("LRU", "LRUSparingHeld", "LearnedReturns")
WITHOUT_HOST_MEMORY = tuple(Arm(policy, policy) for policy in POLICIES)
RETENTION = (
    *WITHOUT_HOST_MEMORY,
    *(Arm(f"{policy}, host memory", policy, host_tokens=KV_TOKENS) for policy in ("LRU", "LearnedReturns")),
)
PARTS: Mapping[str, Part] = {
    "retention": Part(RETENTION),
    "learning": Part(WITHOUT_HOST_MEMORY, kv_tokens=40_960, steps=20),
    "admission": Part(GATES, kv_tokens=49_152, gateways=2, agents=48, steps=8, longest_pause=10.0),
    "return": Part(GATES, kv_tokens=50_000, gateways=2, agents=200, ramp_seconds=1.0, returns=True),
}


def _returning(number: int) -> Session:
    """An agent with a log of 1,000 tokens, which comes with its first step, since its KV is gone."""
    back = Turn(0, 1000, 5, calls_tool=True)
    further = Turn(ALL_TOKENS, 12, 5, 2 / PAUSES_DIVIDED_BY, calls_tool=True)
    return Session(f"agent-{number}", (back, further, further))


def pool_of(arm: Arm, part: Part) -> AgentPool:
    kv_cache = {
        "blockTokens": 16,
        "memory": str(part.kv_tokens * KV_BYTES_PER_TOKEN),
        "hostMemory": str(arm.host_tokens * KV_BYTES_PER_TOKEN),
        "evictionPolicy": arm.policy,
    }
    model = {
        "name": "tiny",
        "source": "dummy://llama-tiny",
        "dtype": "float32",
        "contextTokens": CONTEXT_TOKENS,
        "kvCache": kv_cache,
        "engine": {"maxRunning": 32, "maxBatchTokens": 256},
    }
    spec = {
        "models": [model],
        "workers": {"replicas": 1, "drainTimeoutSeconds": 1},
        "roles": [{"name": ROLE, "onHold": arm.on_hold, "maxOutputTokensPerStep": 0}],
        "admission": {
            "queueTimeoutSeconds": 600,
            "workingSet": arm.working_set,
            "maxHoldSeconds": LONGEST_HOLD_SECONDS,
        },
    }
    document = {"apiVersion": "roost.dev/v1alpha1", "kind": "AgentPool", "metadata": {"name": "real"}, "spec": spec}
    return AgentPool.model_validate(document)


@asynccontextmanager
async def running(arm: Arm, part: Part) -> AsyncIterator[tuple[LocalStack, list[Client]]]:
    """The arm's pool, and a client for each gateway."""
    async with AsyncExitStack() as exits:
        folder = exits.enter_context(tempfile.TemporaryDirectory(prefix="roost-bench-real-stack-"))
        options = StackOptions(
            state_dir=Path(folder), port=0, gateways=part.gateways, ray=False, environment={"OMP_NUM_THREADS": "1"}
        )
        stack = await exits.enter_async_context(LocalStack(pool_of(arm, part), options))
        clients = []
        for first in range(part.gateways):
            targets = (*stack.targets[first:], *stack.targets[:first])
            client = await Client.connect(targets, pool=stack.pool.pool, retry=PATIENCE)
            clients.append(await exits.enter_async_context(client))
        yield stack, clients


async def measured(arm: Arm, part: Part, sessions: Sequence[Session]) -> dict[str, float]:
    """The figures of one arm."""
    async with running(arm, part) as (stack, clients):
        await replay(clients, scaled_sessions(len(clients), 2, 0.0, seed=-1), 0.0)
        began, cpu = time.monotonic(), _worker_cpu(stack)
        samples = await replay(clients, sessions, part.ramp_seconds)
        seconds, cpu = time.monotonic() - began, _worker_cpu(stack) - cpu
    return {**figures_of(samples, seconds), "worker_cpu_seconds": cpu}


def _worker_cpu(stack: LocalStack) -> float:
    """Seconds of CPU that the workers and what they started have taken."""
    processes = [psutil.Process(worker.pid) for worker in stack.workers if worker.pid]
    family = [member for process in processes for member in (process, *process.children(recursive=True))]
    return sum(sum(member.cpu_times()[:2]) for member in family)


def figures_of(sessions: Sequence[SessionSample], seconds: float) -> dict[str, float]:
    steps = [step for session in sessions for step in session.steps]
    continued = [step for step in steps if step.continuation]
    first_token = percentiles([step.first_token_seconds for step in continued])
    return {
        "hit_ratio": sum(step.cached_tokens for step in continued) / sum(step.context_tokens for step in continued),
        "rebuilt_tokens": sum(step.rebuilt_tokens for step in continued),
        "rebuild_seconds": sum(step.rebuild_seconds for step in continued),
        "ttft_p50_seconds": first_token["p50"],
        "ttft_p99_seconds": first_token["p99"],
        "output_tokens_per_second": sum(step.output_tokens for step in steps) / seconds,
        "session_seconds": statistics.median(session.seconds for session in sessions),
        "longest_queue_seconds": max(step.queue_seconds for step in steps),
        "seconds": seconds,
    }


async def part_figures(part: Part, arms: Sequence[Arm], repeats: int) -> dict[str, Any]:
    """Each arm's figures over the repeats, in each of which another arm is the first."""
    runs: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in arms}
    for seed in range(repeats):
        sessions = part.sessions(seed)
        for arm in (*arms[seed % len(arms) :], *arms[: seed % len(arms)]):
            runs[arm.name].append(await measured(arm, part, sessions))
            _tell(arm.name, runs[arm.name][-1])
    return {
        name: {figure: spread([run[figure] for run in values], 3) for figure in values[0]}
        for name, values in runs.items()
    }


def _tell(name: str, run: Mapping[str, float]) -> None:
    print(f"{name:32}", *(f"{figure} {value:.3f}" for figure, value in run.items()), flush=True)


async def bench(options: argparse.Namespace) -> dict[str, Any]:
    began, repeats = time.monotonic(), 1 if options.quick else options.repeats
    report: dict[str, Any] = {"benchmark": "real_stack", "machine": machine(), "repeats": repeats}
    for name in options.parts:
        print(name, flush=True)
        part = PARTS[name]
        report[name] = await part_figures(part, part.arms[:2] if options.quick else part.arms, repeats)
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    report["cpu_seconds"] = round(sum(usage.ru_utime + usage.ru_stime for usage in usages), 1)
    report["wall_seconds"] = round(time.monotonic() - began, 1)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat of two arms of each part: a check")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    emit(asyncio.run(bench(parser.parse_args())))


if __name__ == "__main__":
    main()
