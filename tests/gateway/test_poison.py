"""A step that can never succeed harms neither the pool's workers nor the steps beside it."""

import asyncio
from typing import Any

import grpc
import pytest

from gateway_driver import LIMIT_SECONDS, POOL, Caller, Rig, fault, publish_pool, step_request
from null_script import Script
from null_worker import NullWorker
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.reasons import Reason
from roost.store.keys import PoolKeys
from roost.store.rules import QUARANTINE_MS
from roost.v1 import session_service_pb2 as pb
from roost_gateway.fleet import grace
from roost_gateway.step.attempt import MAX_FAULTS

TOKENS = 12
KEYS = PoolKeys(POOL)


@pytest.fixture(autouse=True)
def old_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the store of the tests had not just started: a lease that runs out is believed."""
    monkeypatch.setattr(grace, "WAIT_SECONDS", 0.0)


async def test_a_step_that_failed_on_every_living_worker_is_refused_at_once(rig: Rig) -> None:
    publish_pool(rig.redis, admission={"queueLimit": 1, "queueTimeoutSeconds": 30})
    workers = [await rig.worker(f"null-{n}", Script(lie_about_offsets=True)) for n in (1, 2)]
    caller = rig.caller(await rig.gateway())
    failing = [caller.step(step_request(await caller.open())) for _ in range(4)]
    for outcome in await asyncio.gather(*failing, return_exceptions=True):
        assert isinstance(outcome, grpc.aio.AioRpcError)
        code, why, retry = fault(outcome)
        assert (code, why) == (grpc.StatusCode.UNAVAILABLE, Reason.WORKER_FAILED)
        assert retry is not None
        assert 0 < retry <= LEASE_TTL_SECONDS, "a worker is avoided for one lease"
    assert [len(worker.starts) for worker in workers] == [4, 4]
    workers[0].script = Script(tokens=TOKENS)
    workers[1].script = Script(tokens=TOKENS)
    assert (await caller.step(step_request(await caller.open()))).committed is not None


async def test_a_step_under_which_workers_end_before_they_accept_it_does_not_go_to_all_of_them(rig: Rig) -> None:
    for number in range(MAX_FAULTS):
        await rig.worker(f"null-{number}", Script(refuse=Reason.WORKER_LOST))
    caller = rig.caller(await rig.gateway())
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await caller.step(step_request(await caller.open()))
    assert fault(error.value)[:2] == (grpc.StatusCode.UNAVAILABLE, Reason.WORKER_FAILED)


class NeverAccepts(NullWorker):
    """Reads steps and does no more."""

    async def _begin(self, start: Any, requests: Any, context: Any) -> Any:
        self.starts.append(start)
        self._happened()
        await asyncio.Event().wait()


async def test_a_step_under_which_the_only_worker_ends_before_it_accepts_it_does_not_go_to_all_its_starts(
    rig: Rig,
) -> None:
    publish_pool(rig.redis, admission={"queueLimit": 1, "queueTimeoutSeconds": 15})
    worker = await rig.run(NeverAccepts(rig.redis.url, POOL))
    caller, waits = rig.caller(await rig.gateway()), asyncio.Event()
    session = await caller.open()

    async def take() -> None:
        async for _ in caller.call_step(step_request(session)):
            waits.set()

    step = rig.spawn(take())
    for deaths in range(1, MAX_FAULTS + 1):
        async with asyncio.timeout(LIMIT_SECONDS):
            await worker.until(lambda worker=worker: worker.starts)
            waits.clear()
            await worker.kill()
            if deaths < MAX_FAULTS:
                await waits.wait()
                worker = await rig.run(NeverAccepts(rig.redis.url, POOL))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await step
    assert fault(error.value)[:2] == (grpc.StatusCode.UNAVAILABLE, Reason.WORKER_FAILED)


class Pool:
    """Three workers that stop in the middle of an output, and a step that one of them has begun."""

    def __init__(self, rig: Rig, caller: Caller, workers: list[NullWorker], session: pb.Session) -> None:
        self.rig, self.caller, self.session = rig, caller, session
        self.workers = {worker.worker_id: worker for worker in workers}
        self.request = step_request(session)
        self.step = aiter(caller.call_step(self.request))

    async def begun(self) -> NullWorker:
        """The worker that has begun the step, or goes on with it."""
        async for response in self.step:
            if response.WhichOneof("event") == "started":
                return self.workers[response.started.worker]
        raise AssertionError("the step ended")

    async def comes_back(self, worker: NullWorker) -> None:
        """The worker, which was killed, starts again under its name."""
        self.workers[worker.worker_id] = await self.rig.worker(worker.worker_id, worker.script)

    def runs_out(self, worker: NullWorker) -> None:
        """As if the worker had been dead for the time of its lease."""
        with self.rig.redis.client() as client:
            client.zadd(KEYS.workers, {worker.worker_id: 1})

    async def ends_with(self) -> tuple[grpc.StatusCode, str, float | None]:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in self.step:
                pass
        return fault(error.value)

    async def finishes(self) -> None:
        for worker in self.workers.values():
            worker.script.hang_after = None
            worker.resume_output.set()
        events = [response.WhichOneof("event") async for response in self.step]
        assert events[-1] == "committed"


@pytest.fixture
async def pool(rig: Rig) -> Pool:
    workers = [await rig.worker(f"null-{number}", Script(tokens=TOKENS, hang_after=5)) for number in range(3)]
    caller = rig.caller(await rig.gateway())
    return Pool(rig, caller, workers, await caller.open())


async def test_a_step_under_which_two_workers_died_gets_no_third_and_is_quarantined(pool: Pool) -> None:
    first = await pool.begun()
    await first.kill()
    second = await pool.begun()
    pool.runs_out(first)
    await second.kill()
    await pool.comes_back(second)
    code, why, retry = await pool.ends_with()
    assert (code, why, retry) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        Reason.STEP_KILLED_WORKERS,
        QUARANTINE_MS / 1000,
    )
    for step_id in ("s1", "another-id"):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await pool.caller.step(step_request(pool.session, step_id))
        code, why, retry = fault(error.value)
        assert (code, why) == (grpc.StatusCode.FAILED_PRECONDITION, Reason.STEP_KILLED_WORKERS)
        assert retry is not None
        assert QUARANTINE_MS / 2000 < retry <= QUARANTINE_MS / 1000
    living = [worker for worker in pool.workers.values() if worker is not first]
    assert [len(worker.starts) for worker in living] == [0, 0]
    for worker in living:
        worker.script.hang_after = None
    assert (await pool.caller.step(step_request(pool.session, "s2", "something else"))).committed is not None
    assert not (await pool.caller.get(pool.session.id)).running_step_id
    with pool.rig.redis.client() as client:
        assert [client.hlen(key) for key in (KEYS.reservations, KEYS.waiters)] == [0, 0]


async def test_workers_that_end_while_they_drain_have_not_died_of_the_step(pool: Pool) -> None:
    for _ in range(2):
        worker = await pool.begun()
        worker.draining = True
        await worker.publish()
        await worker.kill()
        pool.runs_out(worker)
    await pool.begun()
    await pool.finishes()


async def test_one_death_that_nothing_explains_leaves_the_step_a_second_worker(pool: Pool) -> None:
    worker = await pool.begun()
    await worker.kill()
    pool.runs_out(worker)
    await pool.begun()
    await pool.finishes()


async def test_a_step_goes_to_no_more_workers_than_may_fail_although_their_leases_are_out_when_they_are_lost(
    pool: Pool,
) -> None:
    """As when machines are lost: nobody knows whether the step is to blame."""
    for _ in range(MAX_FAULTS):
        worker = await pool.begun()
        pool.runs_out(worker)
        await worker.kill()
    assert (await pool.ends_with())[:2] == (grpc.StatusCode.UNAVAILABLE, Reason.WORKER_FAILED)
