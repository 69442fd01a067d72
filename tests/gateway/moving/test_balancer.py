"""Sessions in pause move from a worker at which steps wait to one that idles. Gateway, workers, engines and Redis are
real, the model is a script."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import worker_harness
from fault_stack import until
from gateway_driver import Caller, gateway, publish_pool, step_request
from redis_servers import RedisServer
from roost.contract.why import Place
from roost.store.keys import PoolKeys
from roost.store.moves import Resident
from roost.store.records import Descriptor
from roost.v1 import session_service_pb2 as pb
from roost.wire_why import why_from_wire
from roost_gateway.fleet import grace
from roost_gateway.moving import balance
from roost_gateway.moving.balancer import Balancer
from roost_gateway.moving.rebuild import RebuildError, RebuildFailure
from roost_gateway.routing.choice import WorkerState
from roost_worker.config import EngineConfig
from routing_oracle import worker_of
from worker_harness import SECRET, World, scripted_world, worker_config

POOL = worker_harness.POOL


class Stack:
    """A gateway over workers that run a single step at once."""

    def __init__(self, redis: RedisServer, folder: Path, ends: AsyncExitStack) -> None:
        self.redis, self._folder, self._ends = redis, folder, ends
        self.caller: Caller

    async def worker(self, name: str) -> World:
        config = worker_config(self.redis.url, self._folder, engine=EngineConfig(max_running=1, max_batch_tokens=64))
        world = await self._ends.enter_async_context(scripted_world(config, worker_id=name))
        world.script(1, "ok")
        return world

    async def gateway(self) -> None:
        server = await self._ends.enter_async_context(gateway(self.redis, pool_secrets={POOL: SECRET}))
        self.caller = Caller(server.address)
        self._ends.push_async_callback(self.caller.aclose)

    async def step(self, session: pb.Session, step_id: str) -> pb.StepCommitted:
        request = step_request(session, step_id, "a" * 40, sampling=pb.Sampling(seed=1, max_tokens=8))
        committed = (await self.caller.step(request)).committed
        assert committed is not None
        return committed

    async def owned_by(self, session: pb.Session, worker: str) -> None:
        async def owned() -> bool:
            with self.redis.client() as client:
                return client.hget(PoolKeys(POOL).session(session.id), "owner") == worker.encode()

        await until(owned, f"the session to move to {worker}")


@pytest.fixture
async def stack(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stack]:
    monkeypatch.setattr(grace, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(balance, "PERSIST_SECONDS", 0.0)
    publish_pool(redis_server, POOL, model={"name": "m", "contextTokens": 256})
    async with AsyncExitStack() as ends:
        yield Stack(redis_server, tmp_path, ends)


async def test_a_session_in_pause_leaves_a_worker_at_which_steps_wait(stack: Stack) -> None:
    busy = await stack.worker("busy")
    await stack.gateway()
    pauses, runs, waits = [await stack.caller.open(pool=POOL) for _ in range(3)]
    for session in (pauses, runs, waits):
        await stack.step(session, "s1")
    busy.gate.close()
    steps = [asyncio.create_task(stack.step(session, "s2")) for session in (runs, waits)]
    await busy.gate.reached()
    idle = await stack.worker("idle")
    await stack.owned_by(pauses, "idle")
    why = why_from_wire((await stack.step(pauses, "s2")).why)
    assert (why.worker, why.place, why.rebuilt_tokens) == ("idle", Place.HOME, 0)
    busy.gate.open()
    served = [why_from_wire(step.why).worker for step in await asyncio.gather(*steps)]
    assert served == ["busy", "busy"], "no session moves under a step"
    assert idle.server.shell.rebuilds.ahead.rebuilt == 0, "it was no rebuild ahead of a return"


class Sessions:
    """What the balancer needs of a store and its workers, a busy and an idle one, of which the busy one has these
    sessions."""

    def __init__(self, *names: str) -> None:
        self.workers = self.moves = self.pools = self
        self._names, self.reads, self.tried = names, 0, list[str]()

    def states(self, pool: str) -> list[WorkerState]:
        busy = worker_of("busy", waiting=4, running=1, max_running=1, reserved_attempts=5)
        return [busy, worker_of("idle", max_running=4)]

    def known(self, pool: str) -> None:
        return None

    async def claim(self, *_: object) -> bool:
        return True

    async def residents(self, pool: str, worker: str) -> list[Resident]:
        self.reads += 1
        now_ms = time.time_ns() // 1_000_000
        return [
            Resident(name, "", worker, 100, "", busy=False, closed=False, updated_ms=now_ms) for name in self._names
        ]

    async def get(self, session_id: str, tenant: str) -> Descriptor:
        self.tried.append(session_id)
        raise RebuildError(RebuildFailure.TOO_OLD, "the worker does not know the call")


@pytest.mark.parametrize(("names", "tried"), [((), []), (("a", "b"), ["a"])], ids=["nothing to move", "too old"])
async def test_workers_are_passed_over_for_a_while_that_give_no_session_or_take_none(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], tried: list[str]
) -> None:
    monkeypatch.setattr(balance, "PERSIST_SECONDS", 0.0)
    sessions: Any = Sessions(*names)
    balancer = Balancer("gateway", sessions, sessions, sessions)
    for _ in range(3):
        balancer.workers_changed(POOL)
        for _ in range(50):
            await asyncio.sleep(0)
    assert (sessions.reads, sessions.tried) == (1, tried)
    await balancer.aclose()
