"""A real worker with little room behind two real gateways; the model is a script."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

import worker_harness
from gateway_driver import Caller, gateway, publish_pool, step_request
from redis_servers import RedisServer
from roost.contract.api_keys import hash_api_key
from roost.contract.why import Why
from roost.v1 import session_service_pb2 as pb
from roost.wire_why import why_from_wire
from roost_gateway.front.server import GatewayServer
from worker_harness import SECRET, World, scripted_world, worker_config

POOL = worker_harness.POOL
BLOCKS = 16
"""Room for one of the sessions here, and half of another."""
LONG = 100
"""A message of so many tokens takes more than a third of the worker's KV."""


class Small:
    """A worker with little room, two gateways, and a caller for each of two tenants at the first."""

    def __init__(self, worker: World, first: GatewayServer, callers: dict[str, Caller], other: Caller) -> None:
        self.worker, self.gateway, self.other = worker, first, other
        self._callers, self._count = callers, 0

    async def open(self, tenant: str) -> pb.Session:
        return await self._callers[tenant].open(pool=POOL)

    async def step(self, tenant: str, session: pb.Session, text: str = "") -> Why:
        """Takes a step; without a text, with a long one that no other session has."""
        self._count += 1
        text = text or f"{self._count}" * LONG
        request = step_request(session, f"s{self._count}", text, sampling=pb.Sampling(seed=1, max_tokens=8))
        log = await self._callers[tenant].step(request)
        assert log.committed is not None
        return why_from_wire(log.committed.why)

    async def fork(self, tenant: str, session: pb.Session) -> pb.Session:
        caller = self._callers[tenant]
        request = pb.ForkSessionRequest(session_id=session.id)
        return (await caller.stub.ForkSession(request, metadata=caller.metadata)).session

    async def hold(self, tenant: str, session: pb.Session, expect_seconds: float) -> None:
        caller = self._callers[tenant]
        request = pb.HoldSessionRequest(session_id=session.id, tool="pytest", expect_seconds=expect_seconds)
        await caller.stub.HoldSession(request, metadata=caller.metadata)

    async def evict(self, tenant: str, session: pb.Session) -> None:
        caller = self._callers[tenant]
        await caller.stub.EvictSession(pb.EvictSessionRequest(session_id=session.id), metadata=caller.metadata)

    async def steps_elsewhere(self, session: pb.Session, first_index: int = 0) -> list[pb.CommittedStep]:
        """The log as the second gateway reads it."""
        request = pb.ListStepsRequest(session_id=session.id, first_index=first_index)
        return list((await self.other.stub.ListSteps(request, metadata=self.other.metadata)).steps)


@asynccontextmanager
async def small_worker(redis_server: RedisServer, folder: Path, **kv_cache: Any) -> AsyncIterator[Small]:
    """Tenants are `ours` and `theirs`. `kv_cache` is what the pool's document says of it."""
    publish_pool(redis_server, POOL, model={"name": "m", "contextTokens": 256, "kvCache": kv_cache})
    keys = [{"id": name, "sha256": hash_api_key(name), "tenant": name, "pools": [POOL]} for name in ("ours", "theirs")]
    (folder / "keys.yaml").write_text(yaml.safe_dump({"keys": keys}))
    options = {"pool_secrets": {POOL: SECRET}, "api_keys_file": folder / "keys.yaml"}
    async with AsyncExitStack() as stack:
        config = worker_config(redis_server.url, folder)
        worker = await stack.enter_async_context(scripted_world(config, blocks=BLOCKS + 1))
        worker.script(1, "ok")
        first = await stack.enter_async_context(gateway(redis_server, **options))
        second = await stack.enter_async_context(gateway(redis_server, **options))
        callers = {name: Caller(first.address, name) for name in ("ours", "theirs")}
        other = Caller(second.address, "ours")
        for caller in (*callers.values(), other):
            stack.push_async_callback(caller.aclose)
        yield Small(worker, first, callers, other)
