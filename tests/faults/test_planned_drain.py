"""A worker is asked to drain: its sessions are moved while it serves them, and what cannot be moved is rebuilt."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.asyncio

from fault_stack import QUESTION, SHORT, SYSTEM, log_of, tiny_pool, until
from forked_stack import forked_processes
from roost import Client, Session
from roost.contract.lease import WorkerLease
from roost.store.keys import PoolKeys
from roost.store.leases import ask_to_drain
from roost.store.link import RedisLink
from roost_operator.api.spec import AgentPool
from roost_operator.local.runner import LocalStack, StackOptions

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

SESSIONS = 12
TEXT = "Tell me more, and leave nothing out of it. " * 6
ROLE = {"name": "agent", "priority": 10, "maxOutputTokensPerStep": 64}


@dataclass
class DrainingPool:
    stack: LocalStack
    client: Client

    async def sessions(self, count: int) -> list[Session]:
        """Sessions with two committed steps each, which share no KV: each begins with its own text."""
        systems = (f"Agent {number}. {SYSTEM}" for number in range(count))
        sessions = await asyncio.gather(*(self.client.open(role="agent", system=system) for system in systems))
        for _ in range(2):
            await asyncio.gather(*(session.run(TEXT, sampling=SHORT) for session in sessions))
        return sessions

    async def owners(self, sessions: Sequence[Session]) -> list[str]:
        keys = PoolKeys(self.stack.pool.pool)
        async with redis.asyncio.Redis.from_url(self.stack.redis_url, decode_responses=True) as store:
            return [await store.hget(keys.session(session.id), "owner") for session in sessions]

    async def drain(self, worker_id: str, seconds: float) -> None:
        """Asks a worker to drain, as the operator does."""
        link = RedisLink.open(self.stack.redis_url)
        await ask_to_drain(link, self.stack.pool.pool, worker_id, seconds)
        await link.aclose()

    async def drained(self, worker_id: str) -> bool:
        return any(lease.worker_id == worker_id and lease.draining and not busy(lease) for lease in await self.leases())

    async def leases(self) -> list[WorkerLease]:
        return await self.stack.leases()


def busy(lease: WorkerLease) -> bool:
    return bool(lease.running or lease.waiting)


@contextlib.asynccontextmanager
async def draining_pool(folder: Path, drain_seconds: int) -> AsyncIterator[DrainingPool]:
    """Two workers and two gateways; the workers take `drain_seconds` to drain at most."""
    pool = tiny_pool("drain", [ROLE], replicas=2, context=4096, memory="32Mi", batch=256, dtype="float32")
    pool["spec"]["workers"]["drainTimeoutSeconds"] = drain_seconds
    options = StackOptions(
        state_dir=folder / "state",
        port=0,
        ray=False,
        cache_dir=folder / "cache",
        environment={"OMP_NUM_THREADS": "1"},
    )
    async with contextlib.AsyncExitStack() as ends:
        ends.enter_context(forked_processes())
        stack = await ends.enter_async_context(LocalStack(AgentPool.model_validate(pool), options))
        yield DrainingPool(stack, await ends.enter_async_context(await Client.connect(stack.targets)))


async def test_no_client_sees_a_rebuild_after_a_planned_drain(tmp_path: Path) -> None:
    """Half of the sessions step on while their worker leaves, the others pause."""
    async with draining_pool(tmp_path, drain_seconds=60) as pool:
        sessions = await pool.sessions(SESSIONS)
        before = await pool.owners(sessions)
        leaves = before[0]
        leaving = asyncio.Event()
        rebuilt: list[int] = []

        async def step(session: Session) -> None:
            result = await session.run(QUESTION, sampling=SHORT)
            rebuilt.append(result.usage.reconstructed_tokens)

        async def step_on(session: Session) -> None:
            while not leaving.is_set():
                await step(session)

        for session in sessions[1::2]:
            await session.hold(tool="pytest", expect_seconds=60.0)
        stepping = [asyncio.create_task(step_on(session)) for session in sessions[::2]]
        await pool.drain(leaves, 60.0)
        held = sessions[1::2]

        async def paused_have_moved() -> bool:
            return leaves not in await pool.owners(held)

        await until(paused_have_moved, "the paused sessions to be moved")
        leaving.set()
        await asyncio.gather(*stepping)
        await until(lambda: pool.drained(leaves), "the worker to drain")
        assert leaves not in await pool.owners(sessions)
        assert before.count(leaves) > 0
        await asyncio.gather(*map(step, sessions))
        assert rebuilt.count(0) == len(rebuilt), f"{len(rebuilt) - rebuilt.count(0)} of {len(rebuilt)} steps rebuilt"


async def test_what_could_not_be_moved_is_rebuilt_on_demand(tmp_path: Path) -> None:
    async with draining_pool(tmp_path, drain_seconds=1) as pool:
        sessions = await pool.sessions(4 * SESSIONS)
        leaves = (await pool.owners(sessions))[0]
        await pool.drain(leaves, 1.0)
        await until(lambda: pool.drained(leaves), "the worker to drain")
        results = await asyncio.gather(*(session.run(TEXT, sampling=SHORT) for session in sessions))
        assert {result.committed.index for result in results} == {2}
        assert leaves not in await pool.owners(sessions)
        logs = await asyncio.gather(*map(log_of, sessions))
        assert {len(log) for log in logs} == {3}
