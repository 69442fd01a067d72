"""A gateway under test: in this process or in one of its own, over real Redis and null workers."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from forked_gateway import GatewayProcess
from null_script import Script
from null_worker import NullWorker
from redis_servers import RedisServer
from roost.contract.parts import PartLog
from roost.contract.reasons import Reason
from roost.grpc_errors import details_of
from roost.store.keys import POOLS, PoolKeys
from roost.v1 import session_service_pb2 as pb
from roost.v1.session_service_pb2_grpc import SessionServiceStub
from roost.wire_parts import parts_from_wire
from roost_gateway.config import GatewayConfig
from roost_gateway.front.server import GatewayServer
from roost_gateway.telemetry import Telemetry

T = TypeVar("T")
W = TypeVar("W", bound=NullWorker)

POOL = "test/null"
ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 60.0
"""How long any wait of a test may last before the test fails."""


def pool_document(pool: str = POOL, **changes: Any) -> dict[str, Any]:
    """A pool document with two roles; `changes` replace parts of it."""
    document: dict[str, Any] = {
        "pool": pool,
        "model": {"name": "null", "contextTokens": 2048},
        "activeRevision": "",
        "roles": [{"name": "coder", "priority": 5, "maxOutputTokensPerStep": 512}, {"name": "critic", "priority": 1}],
        "sessions": {"idleTTLSeconds": 3600},
        "admission": {"queueLimit": 100, "queueTimeoutSeconds": 30},
    }
    return {**document, **changes}


def publish_pool(redis: RedisServer, pool: str = POOL, **changes: Any) -> None:
    """Writes a pool document, as the operator does."""
    with redis.client() as client:
        client.set(PoolKeys(pool).document, json.dumps(pool_document(pool, **changes)))
        client.sadd(POOLS, pool)


@dataclass(slots=True)
class StepLog:
    """What came of one step, checked while it comes: offsets without gap or overlap."""

    events: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    text: str = ""
    parts: PartLog = field(default_factory=PartLog)
    attempt: pb.Attempt | None = None
    committed: pb.StepCommitted | None = None
    restarts: int = 0
    _grown: asyncio.Event = field(default_factory=asyncio.Event)

    async def has(self, tokens: int) -> None:
        """Waits until so many tokens came."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while len(self.ids) < tokens:
                self._grown.clear()
                await self._grown.wait()

    def copy(self) -> "StepLog":
        """What another client would know that took over here."""
        return StepLog(self.events[:], self.ids[:], self.text, PartLog(self.parts.after(0)), self.attempt)

    def take(self, response: pb.StepResponse) -> None:
        kind = response.WhichOneof("event")
        assert kind is not None
        self.events.append(kind)
        if kind == "started":
            self.attempt = response.started.attempt
        elif kind == "restarted":
            self.ids, self.text, self.parts = [], "", PartLog()
            self.restarts += 1
            self.attempt = response.restarted.attempt
        elif kind == "delta":
            self._delta(response.delta)
        elif kind == "committed":
            self.committed = response.committed

    def _delta(self, delta: pb.StepDelta) -> None:
        assert delta.token_offset == len(self.ids), f"token {delta.token_offset} after {len(self.ids)}"
        assert delta.text_offset == len(self.text.encode()), f"byte {delta.text_offset} after {len(self.text.encode())}"
        assert delta.part_offset == self.parts.size, f"part {delta.part_offset} after {self.parts.size}"
        self.ids += delta.token_ids
        self.parts.extend(parts_from_wire(delta.parts))
        self.text += delta.text
        self.attempt = delta.attempt
        self._grown.set()

    def cursor(self) -> pb.Cursor | None:
        if self.attempt is None:
            return None
        text_bytes = len(self.text.encode())
        return pb.Cursor(attempt=self.attempt, tokens=len(self.ids), text_bytes=text_bytes, parts=self.parts.size)


class Caller:
    """A client of one gateway without the SDK's retries."""

    def __init__(self, address: str, key: str = "") -> None:
        self.channel = grpc.aio.insecure_channel(
            address, options=[("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        )
        self.stub = SessionServiceStub(self.channel)
        self.metadata = [("authorization", f"Bearer {key}")] if key else []

    async def open(self, timeout: float | None = None, **fields: Any) -> pb.Session:
        request = pb.OpenSessionRequest(**{"pool": POOL, **fields})
        return (await self.stub.OpenSession(request, metadata=self.metadata, timeout=timeout)).session

    async def get(self, session_id: str) -> pb.Session:
        request = pb.GetSessionRequest(session_id=session_id)
        return (await self.stub.GetSession(request, metadata=self.metadata)).session

    def call_step(self, request: pb.StepRequest, timeout: float | None = LIMIT_SECONDS) -> Any:
        return self.stub.Step(request, metadata=self.metadata, timeout=timeout)

    async def step(
        self, request: pb.StepRequest, log: StepLog | None = None, timeout: float = LIMIT_SECONDS
    ) -> StepLog:
        """Takes a step to its end; what came before an error is in `log`."""
        log = log or StepLog()
        async for response in self.call_step(request, timeout):
            log.take(response)
        return log

    async def aclose(self) -> None:
        await self.channel.close(0)


def step_request(session: pb.Session | str, step_id: str = "s1", text: str = "hello", **fields: Any) -> pb.StepRequest:
    """A step with one user message."""
    session_id = session if isinstance(session, str) else session.id
    message = pb.Message(role=pb.MESSAGE_ROLE_USER, content=text)
    return pb.StepRequest(**{"session_id": session_id, "step_id": step_id, "messages": [message], **fields})


def fault(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, float | None]:
    """Code, reason and retry in seconds of a failed call."""
    assert isinstance(error, grpc.aio.AioRpcError)
    details = details_of(error)
    return error.code(), details.reason, details.retry_seconds


def violations(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """Field violations of a failed call."""
    return dict(details_of(error).violations)


@asynccontextmanager
async def gateway(
    redis: RedisServer, telemetry: Telemetry | None = None, *, open_first: bool = True, **fields: Any
) -> AsyncIterator[GatewayServer]:
    """A gateway in this process; unless told otherwise it has read pools and workers."""
    config = GatewayConfig(**{"listen": "127.0.0.1:0", "store_url": redis.url, "drain_seconds": 0.0, **fields})
    server = GatewayServer(config, telemetry or Telemetry())
    await server.start()
    try:
        if open_first:
            async with asyncio.timeout(LIMIT_SECONDS):
                await server.opened.wait()
        yield server
    finally:
        await server.stop()


class Rig:
    """Everything a test starts, over one Redis with the pool `POOL`; all of it is stopped at the end, in reverse."""

    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Self:
        publish_pool(self.redis)
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def worker(self, worker_id: str = "null-1", script: Script | None = None, **fields: Any) -> NullWorker:
        return await self.run(NullWorker(self.redis.url, POOL, worker_id, script, **fields))

    async def run(self, worker: W) -> W:
        await worker.start()
        self._stack.push_async_callback(worker.stop)
        return worker

    async def gateway(self, telemetry: Telemetry | None = None, **fields: Any) -> GatewayServer:
        return await self._stack.enter_async_context(gateway(self.redis, telemetry, **fields))

    async def process(self, folder: Path, fault: str = "", **fields: Any) -> "GatewayProcess":
        """A gateway in a process of its own that serves."""
        child = await GatewayProcess.start(self.redis, folder, fault, **fields)
        self._stack.push_async_callback(child.aclose)
        await serving(child.address)
        return child

    def caller(self, of: "GatewayServer | GatewayProcess", key: str = "") -> Caller:
        caller = Caller(of.address, key)
        self._stack.push_async_callback(caller.aclose)
        return caller

    async def queued(self, caller: "Caller", request: pb.StepRequest) -> "tuple[pb.StepQueued, asyncio.Task[StepLog]]":
        """Sends a step that has to wait. Returns what its client is sent first, and the step."""
        first, log = asyncio.get_running_loop().create_future(), StepLog()

        async def run() -> StepLog:
            async for response in caller.call_step(request):
                log.take(response)
                if not first.done():
                    first.set_result(response)
            return log

        task = self.spawn(run())
        response: pb.StepResponse = await first
        assert log.events == ["queued"]
        return response.queued, task

    async def waiting(self, caller: "Caller", request: pb.StepRequest) -> "asyncio.Task[StepLog]":
        """A step that is known to wait."""
        return (await self.queued(caller, request))[1]

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Runs something beside the test, at most until its end."""
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task


@dataclass(slots=True)
class World:
    """Redis, one worker, one gateway, one caller."""

    rig: Rig
    worker: NullWorker
    gateway: GatewayServer
    caller: Caller


@asynccontextmanager
async def world(redis: RedisServer, script: Script | None = None, **fields: Any) -> AsyncIterator[World]:
    async with Rig(redis) as rig:
        worker = await rig.worker(script=script)
        server = await rig.gateway(**fields)
        yield World(rig, worker, server, rig.caller(server))


async def serving(address: str) -> None:
    """Waits until the gateway at `address` says that it serves."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with asyncio.timeout(LIMIT_SECONDS), grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        async for answer in stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return


def reason(error: Any) -> Reason:
    """The reason in what `pytest.raises` caught."""
    return Reason(fault(error.value)[1])
