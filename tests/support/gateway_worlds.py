"""A fake gateway and real ones behind one face, so that the same scenario can be played on both."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway_driver import publish_pool
from null_script import BASE_ID, Script, token_text
from null_worker import NullWorker
from redis_servers import RedisServer
from roost import Client, Delta, Event, RetryConfig, RoostError, Session
from roost.contract.api_keys import hash_api_key
from roost.contract.budgets_document import role_budgets_from_json
from roost.testing import FakeGateway, FakeRole, Turn
from roost_gateway.config import GatewayConfig
from roost_gateway.front.server import GatewayServer

POOL = "default/world"
TOKENS = 8
TEXT = "".join(token_text(BASE_ID + number) for number in range(TOKENS))
"""What every step says."""
KEYS = {"key-a": "a", "key-b": "b"}
"""API keys and their tenants."""
ROLES: Mapping[str, Mapping[str, Any]] = {
    "worker": {},
    "paused": {"budgets": {"session": {"steps": 2}, "task": {"steps": 4}, "onBudget": "Ask", "warnAtPercent": 100}},
    "ended": {"budgets": {"session": {"steps": 1}, "graceSteps": 0}},
    "short": {"maxStepsPerSession": 1},
    "terse": {"maxOutputTokensPerStep": 64},
}


class World:
    """Two gateways over one store, whatever they are made of."""

    def __init__(self, targets: list[str]) -> None:
        self.targets = targets
        self._clients: list[Client] = []

    async def client(self, api_key: str = "key-a", give_up_after: float = 30.0) -> Client:
        """A client whose first choice is the first gateway."""
        retry = RetryConfig(initial_backoff=0.01, max_backoff=0.1, give_up_after=give_up_after)
        client = await Client.connect(self.targets, api_key=api_key, retry=retry)
        self._clients.append(client)
        return client

    async def step_over_a_dead_gateway(self, session: Session) -> list[Event]:
        """The events of a step whose gateway dies after its first output."""
        raise NotImplementedError

    def pause(self) -> None:
        """From now on steps begin, but write nothing."""
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError

    async def change_model(self, *, migrates: bool) -> None:
        """The pool's model is another one from now on, and nobody serves the old one."""
        raise NotImplementedError

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


async def opened(world: World, **options: Any) -> Session:
    return await (await world.client()).open(**options)


async def failing(call: Awaitable[Any]) -> tuple[str, str, str, bool]:
    """How a call fails: class, status, reason, and whether it says when to come back."""
    with pytest.raises(RoostError) as raised:
        await call
    error = raised.value
    return type(error).__name__, error.status.name, error.reason, error.retry_after is not None


class FakeWorld(World):
    def __init__(self, fake: FakeGateway, writing: asyncio.Event) -> None:
        super().__init__(fake.targets)
        self._fake = fake
        self._writing = writing

    def pause(self) -> None:
        self._writing.clear()

    def resume(self) -> None:
        self._writing.set()

    async def change_model(self, *, migrates: bool) -> None:
        self._fake.change_model("rev-2", migrates=migrates)

    async def step_over_a_dead_gateway(self, session: Session) -> list[Event]:
        self._fake.break_next_step(after_tokens=8)
        return [event async for event in session.step("go on")]


class RealWorld(World):
    def __init__(self, gateways: list[GatewayServer], worker: NullWorker, redis: RedisServer) -> None:
        super().__init__([gateway.address for gateway in gateways])
        self._gateways = gateways
        self._worker = worker
        self._redis = redis

    async def change_model(self, *, migrates: bool) -> None:
        await self._worker.stop()
        url, script = self._redis.url, Script(tokens=TOKENS)
        self._worker = await NullWorker(url, POOL, "null-2", script, revision="rev-2").start()
        _publish(self._redis, "rev-2", "Migrate" if migrates else "Refuse")
        for gateway in self._gateways:
            await gateway.life.fleet.pools.reread(POOL)
            await gateway.life.fleet.workers.refresh(POOL)

    async def close(self) -> None:
        await super().close()
        for gateway in self._gateways:
            await gateway.stop(0.0)
        await self._worker.stop()

    def pause(self) -> None:
        self._worker.script.hang_after = 0
        self._worker.resume_output.clear()

    def resume(self) -> None:
        self._worker.resume_output.set()

    async def step_over_a_dead_gateway(self, session: Session) -> list[Event]:
        events: list[Event] = []
        self._worker.script.hang_after = 3
        async for event in session.step("go on"):
            events.append(event)
            if isinstance(event, Delta) and not self._worker.resume_output.is_set():
                await self._gateways[0].stop(0.0)
                self._worker.resume_output.set()
        return events


@contextlib.asynccontextmanager
async def fake_world() -> AsyncIterator[World]:
    roles = [
        FakeRole(
            name,
            max_steps=limits.get("maxStepsPerSession", 0),
            max_output_tokens=limits.get("maxOutputTokensPerStep", 0),
            budgets=role_budgets_from_json(limits.get("budgets", {}), "budgets."),
        )
        for name, limits in ROLES.items()
    ]
    writing = asyncio.Event()
    writing.set()

    async def reply(turn: Turn) -> str:
        await writing.wait()
        return TEXT

    fake = FakeGateway(reply, pool=POOL, roles=roles, api_keys=KEYS, gateways=2, context_tokens=2048)
    async with fake:
        world = FakeWorld(fake, writing)
        try:
            yield world
        finally:
            await world.close()


@contextlib.asynccontextmanager
async def real_world(server: RedisServer, directory: Path) -> AsyncIterator[World]:
    """Two real gateways and a null worker over an empty Redis; `directory` takes the key file."""
    _publish(server)
    keys = [
        {
            "id": tenant,
            "sha256": hash_api_key(key),
            "tenant": tenant,
            "pools": [POOL],
            "rights": ["extendBudgets"],
        }
        for key, tenant in KEYS.items()
    ]
    (directory / "keys.yaml").write_text(yaml.safe_dump({"keys": keys}))
    config = GatewayConfig(listen="127.0.0.1:0", store_url=server.url, api_keys_file=directory / "keys.yaml")
    worker = await NullWorker(server.url, POOL, script=Script(tokens=TOKENS)).start()
    gateways = [GatewayServer(config), GatewayServer(config)]
    for gateway in gateways:
        await gateway.start()
        await gateway.opened.wait()
    world = RealWorld(gateways, worker, server)
    try:
        yield world
    finally:
        await world.close()


def _publish(redis: RedisServer, revision: str = "", policy: str = "Migrate") -> None:
    roles = [{"name": name, **limits} for name, limits in ROLES.items()]
    sessions = {"onModelChange": policy}
    publish_pool(redis, POOL, activeRevision=revision, roles=roles, sessions=sessions, admission={})
