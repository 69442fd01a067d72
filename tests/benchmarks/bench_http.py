"""What HTTP costs: time to the first token and CPU, over HTTP and over gRPC, and of a router of other people.

A step is 64 tokens, one each 20 ms. Through Roost they come every 50 ms, as clients get them who do not ask for another
pace; through the router each comes for itself. Each client has a conversation of its own with a system text that makes
its bodies as large as given, sends all of it with every step, as agents do, and keeps its connection. Arms, at the same
rate of steps that begin at random times:

- grpc: Roost's gRPC over a null worker; only the new message is sent.
- http: Roost's HTTP (`/v1/chat/completions`, streamed) over the same gateway and worker.
- router: another router (`--router`) before a null server that streams the same chunks.

From each the time of a direct call is taken: of the null worker by gRPC, of the null server by HTTP. `added_first_ms`
is the difference of percentiles of the time to the first delta; CPU is that of the gateway, or of the router, per step.

    python tests/benchmarks/bench_http.py [--quick] [--rate 8]
        [--router 'smg launch --host 127.0.0.1 --port {port} --worker-urls {url}']

Before anything is counted, every client has taken two steps. The last line of stdout is one JSON document.
"""

# ruff: noqa: E402  the repository's folders go before its imports
import argparse
import asyncio
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
import uvloop

sys.path[:0] = [
    str(Path(__file__).parents[1] / "support"),
    *(str(Path(__file__).parents[2] / p) for p in ("proto", "gateway", "worker")),
]

from figures import emit, machine, percentiles
from gateway_load import INTERVAL, PROMPT_IDS, TOKENS, arrivals
from null_openai_server import null_server

from gateway_driver import POOL, publish_pool, serving
from http_client import Connection
from measured_processes import Child, gateway_process
from redis_servers import RedisServer, free_port
from roost.v1 import session_service_pb2 as pb
from roost.v1 import worker_service_pb2 as wpb
from roost.v1.session_service_pb2_grpc import SessionServiceStub
from roost.v1.worker_service_pb2_grpc import WorkerServiceStub

SIZES = (5_000, 50_000, 200_000)
CLIENTS = 24
WARM_STEPS = 2
ROUTER_SECONDS = 60.0

Step = Callable[[], Awaitable[float]]
"""Takes a step and returns the seconds to its first delta, less the script's interval."""


@dataclass
class HttpClient:
    """A conversation over HTTP on one connection."""

    address: str
    size: int
    number: int
    messages: list[dict[str, str]] = field(default_factory=list)
    connection: Connection | None = None

    async def step(self) -> float:
        if not self.messages:
            mark = f"client {self.number} "
            self.messages.append({"role": "system", "content": (mark * (self.size // len(mark) + 1))[: self.size]})
        self.messages.append({"role": "user", "content": "x" * 100})
        body = json.dumps({"model": "null", "messages": self.messages, "stream": True}).encode()
        if self.connection is None:
            self.connection = await Connection.to(self.address)
        began = time.monotonic()
        await self.connection.send("POST", "/v1/chat/completions", body, content_type="application/json")
        head = await self.connection.head()
        if head.status != 200:
            raise SystemExit(f"{head.status}: {(await self.connection.end()).body!r}")
        await self.connection.until(b'"content":"0')
        first = time.monotonic() - began
        answer = await self.connection.end()
        if not answer.is_complete or answer.data[-1] != "[DONE]":
            raise SystemExit(f"a stream that does not end: {answer.body[-300:]!r}")
        chunks = (chunk["choices"][0]["delta"].get("content") or "" for chunk in answer.data[:-1] if chunk["choices"])
        self.messages.append({"role": "assistant", "content": "".join(chunks)})
        return first - INTERVAL

    async def aclose(self) -> None:
        if self.connection is not None:
            await self.connection.close()


@dataclass
class GrpcClient:
    """A session over gRPC; all clients share a channel."""

    channel: grpc.aio.Channel
    session_id: str = ""
    steps: int = 0

    async def step(self) -> float:
        stub = SessionServiceStub(self.channel)
        if not self.session_id:
            self.session_id = (await stub.OpenSession(pb.OpenSessionRequest(pool=POOL))).session.id
        self.steps += 1
        message = pb.Message(role=pb.MESSAGE_ROLE_USER, content="x" * 100)
        request = pb.StepRequest(session_id=self.session_id, step_id=f"step-{self.steps}", messages=[message])
        began, first = time.monotonic(), 0.0
        async for response in stub.Step(request, timeout=120):
            if not first and response.WhichOneof("event") == "delta":
                first = time.monotonic() - began
        return first - INTERVAL


@dataclass
class WorkerClient:
    """Calls the null worker without a gateway."""

    channel: grpc.aio.Channel

    async def step(self) -> float:
        call = WorkerServiceStub(self.channel).Generate(metadata=[("roost-pool-secret", "")])
        began, first = time.monotonic(), 0.0
        start = wpb.Start(sampling=pb.Sampling(max_tokens=TOKENS), deltas=pb.DELTAS_INTERVAL)
        await call.write(wpb.GenerateRequest(start=start))
        async for response in call:
            kind = response.WhichOneof("message")
            if kind == "delta" and not first:
                first = time.monotonic() - began
            elif kind == "finished":
                break
        await call.write(wpb.GenerateRequest(commit=wpb.Commit()))
        await call.done_writing()
        return first - INTERVAL


async def measured(steps: Sequence[Step], rate: float, seconds: float, pid: int | None) -> dict[str, Any]:
    """Percentiles of the time to the first delta in milliseconds, and CPU in milliseconds per step of process `pid`."""
    for _ in range(WARM_STEPS):
        await asyncio.gather(*(step() for step in steps))
    idle, firsts, running, shed = list(steps), list[float](), set[asyncio.Task[None]](), 0

    async def take(step: Step) -> None:
        firsts.append((await step()) * 1e3)
        idle.append(step)

    before, begin = _cpu(pid), time.monotonic()
    for after in arrivals(rate, seconds, even=False):
        await asyncio.sleep(max(0.0, begin + after - time.monotonic()))
        if idle:
            running.add(asyncio.ensure_future(take(idle.pop(0))))
        else:
            shed += 1
    await asyncio.gather(*running)
    spent = (_cpu(pid) - before) * 1e3 / max(1, len(firsts))
    return {"first_ms": percentiles(firsts), "cpu_ms": round(spent, 2), "steps": len(firsts), "shed": shed}


def _cpu(pid: int | None) -> float:
    return 0.0 if pid is None else sum(psutil.Process(pid).cpu_times()[:2])


async def _router(stack: AsyncExitStack, command: str, url: str) -> tuple[str, int]:
    """Starts a router. Returns its address and its process id."""
    port = free_port()
    words = shlex.split(command.format(port=port, url=url))
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.DEVNULL)
    stack.push_async_callback(process.wait)
    stack.callback(process.terminate)
    async with asyncio.timeout(ROUTER_SECONDS):
        while True:
            try:
                client = HttpClient(f"127.0.0.1:{port}", 100, 0)
                await client.step()
            except (ConnectionError, SystemExit, asyncio.IncompleteReadError):
                await asyncio.sleep(0.2)
            else:
                await client.aclose()
                return f"127.0.0.1:{port}", process.pid


async def over_http(address: str, size: int, options: argparse.Namespace, pid: int | None) -> dict[str, Any]:
    clients = [HttpClient(address, size, number) for number in range(CLIENTS)]
    try:
        return await measured([client.step for client in clients], options.rate, options.seconds, pid)
    finally:
        for client in clients:
            await client.aclose()


async def bench(options: argparse.Namespace) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = {"name": "null", "contextTokens": 0}
        publish_pool(redis, model=model, roles=[{"name": "r", "maxOutputTokensPerStep": 64}])
        script = ["--tokens", TOKENS, "--interval", INTERVAL, "--prompt-ids", PROMPT_IDS]
        arguments = ["-m", "null_worker_process", "--lean", "--redis", redis.url, "--pool", POOL, *map(str, script)]
        worker = await Child.start(arguments)
        stack.push_async_callback(worker.aclose)
        http_address = f"127.0.0.1:{free_port()}"
        gateway = await gateway_process(redis, folder, http_listen=http_address)
        stack.push_async_callback(gateway.aclose)
        await serving(gateway.address)
        server = await stack.enter_async_context(await asyncio.start_server(null_server, "127.0.0.1", 0))
        backend = "{}:{}".format(*server.sockets[0].getsockname())
        router = await _router(stack, options.router, f"http://{backend}") if options.router else None
        to_worker = await stack.enter_async_context(grpc.aio.insecure_channel(worker.address))
        to_gateway = await stack.enter_async_context(grpc.aio.insecure_channel(gateway.address))
        return await _report(options, to_worker, to_gateway, http_address, backend, router, gateway.process.pid)


async def _report(
    options: argparse.Namespace,
    to_worker: grpc.aio.Channel,
    to_gateway: grpc.aio.Channel,
    http_address: str,
    backend: str,
    router: tuple[str, int] | None,
    gateway_pid: int,
) -> dict[str, Any]:
    rate, seconds = options.rate, options.seconds
    direct = await measured([WorkerClient(to_worker).step] * CLIENTS, rate, seconds, None)
    sessions = [GrpcClient(to_gateway).step for _ in range(CLIENTS)]
    rows: dict[str, Any] = {"grpc": _added(await measured(sessions, rate, seconds, gateway_pid), direct)}
    for size in SIZES:
        rows[f"http {size // 1000} kB"] = _added(await over_http(http_address, size, options, gateway_pid), direct)
        if router is not None:
            alone = await over_http(backend, size, options, None)
            rows[f"router {size // 1000} kB"] = _added(await over_http(router[0], size, options, router[1]), alone)
    for name, row in rows.items():
        added = row["added_first_ms"]
        print(
            f"{name:16} first delta + p50 {added['p50']:6.2f} p99 {added['p99']:6.2f} ms  CPU {row['cpu_ms']:6.2f} ms"
        )
    script = {"tokens": TOKENS, "interval_ms": INTERVAL * 1e3, "rate": rate, "clients": CLIENTS, "seconds": seconds}
    return {"benchmark": "http", "machine": machine(), "router": options.router, "script": script, "arms": rows}


def _added(row: dict[str, Any], direct: dict[str, Any]) -> dict[str, Any]:
    cuts = {cut: round(row["first_ms"][cut] - direct["first_ms"][cut], 3) for cut in ("p50", "p99")}
    return {"added_first_ms": cuts, "direct_first_ms": direct["first_ms"], **row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short run that checks the benchmark itself")
    parser.add_argument("--rate", type=float, default=8.0, help="steps a second")
    parser.add_argument("--router", default="", help="command of a router, with {port} and {url}")
    options = parser.parse_args()
    options.seconds = 4.0 if options.quick else 20.0
    emit(uvloop.run(bench(options)))


if __name__ == "__main__":
    main()
