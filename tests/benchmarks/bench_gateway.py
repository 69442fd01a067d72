"""What the gateway adds: latency, CPU and messages per second over a null worker, against calling the worker directly.

A step is 64 deltas, one each 20 ms, over 1,000 prompt ids; Redis commits with `appendfsync always` on the folder given
by --redis-dir. Gateway, worker, Redis and this load generator are processes of their own and share the machine's cores:
on two cores the generator and the worker take as much as the gateway, so the highest rate is the machine's.

Three latencies, each as the difference to a direct call at the same rate:
- first: from the call to the first delta (Begin and Reserve are in it),
- delta: from the worker's write of a delta to its arrival here,
- step: from the call to Committed, less the 64 times 20 ms of the script (Commit is in it).

    python tests/benchmarks/bench_gateway.py [--quick]

The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
import uvloop

sys.path[:0] = [
    str(Path(__file__).parents[1] / "support"),
    *(str(Path(__file__).parents[2] / p) for p in ("proto", "gateway")),
]

from figures import emit, machine, percentiles

from gateway_driver import POOL, Child, gateway_process, publish_pool, serving
from lean_worker import STAMP_BYTES
from null_script import BASE_ID
from redis_servers import RedisServer
from roost.v1 import session_service_pb2 as pb
from roost.v1 import worker_service_pb2 as wpb
from roost.v1.session_service_pb2_grpc import SessionServiceStub
from roost.v1.worker_service_pb2_grpc import WorkerServiceStub

TOKENS, INTERVAL, PROMPT_IDS = 64, 0.020, 1000
SCRIPT_SECONDS = TOKENS * INTERVAL
P99_LIMIT_MS = 50.0


@dataclass(slots=True)
class Sample:
    """Latencies of one run in milliseconds."""

    first: list[float] = field(default_factory=list)
    delta: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    messages: int = 0
    late: float = 0.0
    """How late the generator itself was, at worst."""
    gateway_cpu_ms: float = 0.0
    """CPU of the gateway per step."""
    seconds: float = 0.0

    def percentiles(self) -> dict[str, dict[str, float]]:
        return {name: percentiles(getattr(self, name)) for name in ("first", "delta", "step")}


class Reading:
    """One step's deltas as they arrive; checks the payload."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._began = time.monotonic()
        self._tokens = 0
        self._bytes = 0

    def delta(self, delta: Any) -> None:
        now = time.monotonic()
        if not self._tokens:
            self._sample.first.append((now - self._began) * 1e3 - INTERVAL * 1e3)
        _check(delta.token_offset == self._tokens and delta.text_offset == self._bytes, "a gap or an overlap")
        _check(delta.token_ids[0] == BASE_ID + self._tokens, "other ids than the worker's")
        text, count = delta.text, len(delta.token_ids)
        _check(len(text) == count * STAMP_BYTES, "text and ids do not match")
        for place in range(0, len(text), STAMP_BYTES):
            self._sample.delta.append((now - float(text[place : place + STAMP_BYTES])) * 1e3)
        self._tokens += count
        self._bytes += len(text)
        self._sample.messages += 1

    def end(self) -> None:
        _check(self._tokens == TOKENS, f"{self._tokens} tokens of {TOKENS}")
        self._sample.step.append((time.monotonic() - self._began - SCRIPT_SECONDS) * 1e3)


def _check(good: bool, what: str) -> None:
    if not good:
        raise SystemExit(f"wrong payload: {what}")


class Direct:
    """Calls the worker as a gateway would, with nothing in between."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = WorkerServiceStub(self._channel)

    async def step(self, number: int, sample: Sample) -> None:
        reading = Reading(sample)
        call = self._stub.Generate(metadata=[("roost-pool-secret", "")])
        await call.write(wpb.GenerateRequest(start=wpb.Start(sampling=pb.Sampling(max_tokens=TOKENS))))
        async for response in call:
            kind = response.WhichOneof("message")
            if kind == "delta":
                reading.delta(response.delta)
            elif kind == "finished":
                break
        await call.write(wpb.GenerateRequest(commit=wpb.Commit()))
        await call.done_writing()
        reading.end()

    async def aclose(self) -> None:
        await self._channel.close(0)


class Through:
    """Takes steps through the gateway, each in the session that has rested longest."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.enable_retries", 0)])
        self._stub = SessionServiceStub(self._channel)
        self._idle: asyncio.Queue[str] = asyncio.Queue()

    async def open(self, count: int) -> None:
        for _ in range(count - self._idle.qsize()):
            answer = await self._stub.OpenSession(pb.OpenSessionRequest(pool=POOL))
            self._idle.put_nowait(answer.session.id)

    async def step(self, number: int, sample: Sample) -> None:
        session_id = self._idle.get_nowait()
        message = pb.Message(role=pb.MESSAGE_ROLE_USER, content="x" * 400)
        request = pb.StepRequest(session_id=session_id, step_id=f"{number}-{time.monotonic_ns()}", messages=[message])
        reading = Reading(sample)
        async for response in self._stub.Step(request, timeout=120):
            kind = response.WhichOneof("event")
            if kind == "delta":
                reading.delta(response.delta)
            elif kind == "committed":
                reading.end()
        self._idle.put_nowait(session_id)

    async def aclose(self) -> None:
        await self._channel.close(0)


async def load(
    rate: float, seconds: float, step: Callable[[int, Sample], Awaitable[None]], warm: float = 1.5
) -> Sample:
    """Begins `rate` steps a second, evenly, whether earlier ones have ended or not. The first ones are not counted."""
    sample, running = Sample(seconds=seconds), set[asyncio.Task[None]]()
    begin = time.monotonic()
    for number in range(int(rate * (warm + seconds))):
        due = begin + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        counted = sample if number >= rate * warm else Sample()
        counted.late = max(counted.late, (time.monotonic() - due) * 1e3)
        running.add(asyncio.ensure_future(step(number, counted)))
    await asyncio.gather(*running)
    return sample


async def measured(rate: float, seconds: float, through: Through, gateway: psutil.Process) -> Sample:
    """A run through the gateway with the gateway's CPU."""
    await through.open(int(rate * (SCRIPT_SECONDS + 3)) + 8)
    before = sum(gateway.cpu_times()[:2])
    sample = await load(rate, seconds, through.step)
    used = sum(gateway.cpu_times()[:2]) - before
    sample.gateway_cpu_ms = round(used * 1e3 / (rate * (seconds + 1.5)), 3)
    return sample


def added(through: Sample, direct: Sample) -> dict[str, Any]:
    """Percentiles through the gateway, directly, and their difference."""
    ours, theirs = through.percentiles(), direct.percentiles()
    difference = {name: {cut: round(ours[name][cut] - theirs[name][cut], 3) for cut in ("p50", "p99")} for name in ours}
    return {
        "added_ms": difference,
        "through_ms": ours,
        "direct_ms": theirs,
        "steps": len(through.step),
        "messages_per_second": round(through.messages / through.seconds),
        "gateway_cpu_ms_per_step": through.gateway_cpu_ms,
        "generator_late_ms": round(through.late, 1),
    }


async def highest_rate(
    rates: Sequence[float], seconds: float, through: Through, process: psutil.Process
) -> dict[str, Any]:
    """Climbs until p99 of the first delta or of any delta passes the limit."""
    best: dict[str, Any] = {"steps_per_second": 0}
    for rate in rates:
        sample = await measured(rate, seconds, through, process)
        cuts = sample.percentiles()
        worst = max(cuts["first"]["p99"], cuts["delta"]["p99"])
        print(
            f"  {rate:5.0f} steps/s: p99 {worst:8.1f} ms, gateway {sample.gateway_cpu_ms:.2f} ms CPU a step", flush=True
        )
        if worst >= P99_LIMIT_MS:
            break
        best = {
            "steps_per_second": rate,
            "p99_ms": worst,
            "messages_per_second": round(sample.messages / sample.seconds),
            "tokens_per_second": round(len(sample.delta) / sample.seconds),
            "gateway_cpu_ms_per_step": sample.gateway_cpu_ms,
        }
    return best


async def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    seconds, rates = (3.0, [20.0, 50.0]) if arguments.quick else (15.0, [50.0, 200.0])
    ladder = [75.0, 100.0] if arguments.quick else [75.0, 100.0, 125.0, 150.0, 175.0, 200.0, 250.0, 300.0, 400.0]
    redis = RedisServer()
    redis.directory = Path(tempfile.mkdtemp(prefix="roost-bench-", dir=arguments.redis_dir))
    with redis, tempfile.TemporaryDirectory() as folder:
        publish_pool(
            redis, model={"name": "null", "contextTokens": 0}, roles=[{"name": "r", "maxOutputTokensPerStep": 64}]
        )
        worker = await _worker(redis)
        gateway = await gateway_process(redis, Path(folder))
        await serving(gateway.address)
        direct, through = Direct(worker.address), Through(gateway.address)
        process = psutil.Process(gateway.process.pid)
        try:
            return await _report(arguments, seconds, rates, ladder, direct, through, process)
        finally:
            await direct.aclose()
            await through.aclose()
            await gateway.aclose()
            await worker.aclose()


async def _report(
    arguments: argparse.Namespace,
    seconds: float,
    rates: Sequence[float],
    ladder: Sequence[float],
    direct: Direct,
    through: Through,
    process: psutil.Process,
) -> dict[str, Any]:
    report: dict[str, Any] = {
        "benchmark": "gateway",
        "machine": f"{machine()}, grpcio {grpc.__version__}",
        "script": {
            "deltas": TOKENS,
            "interval_ms": INTERVAL * 1e3,
            "prompt_ids": PROMPT_IDS,
            "redis": "appendfsync always",
        },
        "redis_dir": arguments.redis_dir,
        "rates": {},
    }
    for rate in rates:
        alone = await load(rate, seconds, direct.step)
        result = added(await measured(rate, seconds, through, process), alone)
        report["rates"][f"{rate:.0f}"] = result
        for name, cuts in result["added_ms"].items():
            print(
                f"{rate:5.0f} steps/s  {name:5}  added p50 {cuts['p50']:7.2f} ms  p99 {cuts['p99']:7.2f} ms", flush=True
            )
        print(f"{rate:5.0f} steps/s  gateway CPU {result['gateway_cpu_ms_per_step']:.2f} ms a step", flush=True)
    report["highest"] = await highest_rate(ladder, min(seconds, 8.0), through, process)
    return report


async def _worker(redis: RedisServer) -> Child:
    script = ["--tokens", TOKENS, "--interval", INTERVAL, "--prompt-ids", PROMPT_IDS]
    arguments = ["-m", "null_worker_process", "--lean", "--redis", redis.url, "--pool", POOL, *map(str, script)]
    return await Child.start(arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short run that checks the benchmark itself")
    parser.add_argument("--redis-dir", default="/tmp", help="folder of Redis's append-only file; a real disk")
    emit(uvloop.run(bench(parser.parse_args())))


if __name__ == "__main__":
    main()
