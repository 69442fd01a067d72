"""What random requests do to a pool of two workers, and to a session beside them.

Requests of every call of SessionService are drawn by Hypothesis from the protos, hostile texts and schemas included,
and sent at a steady rate. Beside them one session takes steps of 8 tokens, one after another, as it did alone before.
Shown are the statuses of the answers, how many processes ended, and the latencies of the session's steps alone and
beside the requests. At the end nothing may be reserved.

    python tests/benchmarks/bench_hostile_requests.py [--requests 10000] [--rate 20] [--seed 0]

The last line of stdout is one JSON document. The exit status is 1 if a request was answered INTERNAL or UNKNOWN, or a
process ended.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import copy
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

sys.path[:0] = [
    str(Path(__file__).parents[1] / "support"),
    *(str(Path(__file__).parents[2] / folder) for folder in ("proto", "gateway", "operator", "worker")),
]

from figures import emit, machine, percentiles, spread

from fault_stack import FaultStack
from hostile_requests import drawn, requests
from request_sender import BAD, SLOTS, Sender
from roost import Client, Sampling, Session
from roost_operator.api.spec import AgentPool
from roost_operator.local.runner import LocalStack, StackOptions
from whole_pool import POOL, POOL_NAME

MAX_TOKENS = 32
ALONE_STEPS = 400
STEP = Sampling(temperature=0.0, max_tokens=8, ignore_eos=True)
STEPS_PER_SESSION = 60
"""The session beside is opened again before its context is full."""


async def steps(client: Client, stop: asyncio.Event, most: int = 1_000_000) -> list[float]:
    """Takes steps, one after another, until `stop`. Returns the milliseconds of each."""
    latencies: list[float] = []
    session: Session | None = None
    while not stop.is_set() and len(latencies) < most:
        if session is None or len(latencies) % STEPS_PER_SESSION == 0:
            session = await client.open()
            await session.run("Begin.", sampling=STEP)
        begun = time.perf_counter()
        await session.run("Go on.", sampling=STEP)
        latencies.append(1000 * (time.perf_counter() - begun))
    return latencies


async def send_all(sender: Sender, calls: list[tuple[str, Message]], rate: float) -> float:
    """Sends each call at its time, whether or not those before it have ended. Returns the seconds that it took."""
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for index, (name, request) in enumerate(calls):
            await asyncio.sleep(begun + index / rate - time.perf_counter())
            group.create_task(sender.send(name, request))
    return time.perf_counter() - begun


async def run(calls: list[tuple[str, Message]], rate: float, folder: Path) -> dict[str, Any]:
    pool = copy.deepcopy(POOL)
    pool["spec"]["workers"]["replicas"] = 2
    pool["spec"]["roles"] = [{"name": "agent", "maxOutputTokensPerStep": MAX_TOKENS}]
    options = StackOptions(state_dir=folder / "state", port=0, gateways=1, ray=False, cache_dir=folder / "cache")
    async with (
        LocalStack(AgentPool.model_validate(pool), options) as stack,
        await Client.connect(stack.targets, pool=stack.pool.pool) as client,
        grpc.aio.insecure_channel(stack.targets[0]) as channel,
    ):
        processes = {process.pid for process in (*stack.gateways, *stack.workers)}
        sender = Sender(channel, stack.pool.pool)
        await sender.begin()
        stop = asyncio.Event()
        await steps(client, stop, most=20)  # warm-up
        alone = await steps(client, stop, most=ALONE_STEPS)
        beside = asyncio.create_task(steps(client, stop))
        seconds = await send_all(sender, calls, rate)
        stop.set()
        latencies = await beside
        await FaultStack(stack, folder).everything_is_free()
        ended = processes - {process.pid for process in (*stack.gateways, *stack.workers)}
        return {
            "requests": len(calls),
            "seconds": round(seconds, 1),
            "statuses": dict(sender.statuses.most_common()),
            "bad": sender.bad[:20],
            "processes_ended": len(ended),
            "alone_ms": {**percentiles(alone), "spread": spread(alone)},
            "beside_ms": {**percentiles(latencies), "spread": spread(latencies)},
            "p99_ratio": round(percentiles(latencies)["p99"] / percentiles(alone)["p99"], 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    calls = drawn(requests(POOL_NAME, SLOTS, MAX_TOKENS), arguments.requests, arguments.seed)
    print(f"{len(calls)} requests drawn: {dict(Counter(name for name, _ in calls))}", flush=True)
    with tempfile.TemporaryDirectory(prefix="roost-hostile-") as folder:
        figures = asyncio.run(run(calls, arguments.rate, Path(folder)))
    emit({"benchmark": "hostile_requests", "machine": machine(), "rate": arguments.rate, **figures})
    sys.exit(bool(any(figures["statuses"].get(status) for status in BAD) or figures["processes_ended"]))


if __name__ == "__main__":
    main()
