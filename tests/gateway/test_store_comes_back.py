"""A gateway that starts together with its store: workers that have not published themselves again are waited for."""

import asyncio

import grpc
import pytest

from gateway_driver import LIMIT_SECONDS, POOL, Rig, StepLog, publish_pool, reason, step_request
from null_script import Script
from null_worker import NullWorker
from redis_servers import RedisServer
from roost.contract.reasons import Reason
from roost.store.keys import PoolKeys
from roost_gateway.fleet import grace

TOKENS = 12


async def _unpublished(rig: Rig, worker: NullWorker) -> None:
    """The worker's lease is gone, as after a restart that took longer than it lasts."""
    assert worker._lease_task is not None
    worker._lease_task.cancel()
    with rig.redis.client() as client:
        client.delete(PoolKeys(POOL).lease(worker.worker_id), PoolKeys(POOL).workers)


async def test_an_orphan_is_resumed_once_its_worker_is_heard_of_again(fresh_redis: RedisServer) -> None:
    async with Rig(fresh_redis) as rig:
        worker = await rig.worker(script=Script(tokens=TOKENS, hang_after=5))
        first = rig.caller(await rig.gateway())
        session, log = await first.open(), StepLog()
        call = rig.spawn(first.step(step_request(session), log))
        await log.has(5)
        await _unpublished(rig, worker)
        fresh_redis.restart()
        second = rig.caller(await rig.gateway())
        again = log.copy()
        retry = rig.spawn(second.step(step_request(session, received=log.cursor()), again))
        await _epoch(rig, session.id, 2)
        await worker.publish()
        async with asyncio.timeout(LIMIT_SECONDS):
            await worker.until(lambda: worker.resumes)
        worker.resume_output.set()
        await retry
        assert len(again.ids) == TOKENS
        assert again.restarts == 0
        assert len(worker.starts) == 1
        await asyncio.gather(call, return_exceptions=True)


async def _epoch(rig: Rig, session_id: str, epoch: int) -> None:
    with rig.redis.client() as client:
        async with asyncio.timeout(LIMIT_SECONDS):
            while int(await asyncio.to_thread(client.hget, PoolKeys(POOL).session(session_id), "epoch")) < epoch:
                pass  # each question lets the gateway go on


async def test_a_step_waits_for_the_first_worker_longer_than_its_pool_lets_it(fresh_redis: RedisServer) -> None:
    async with Rig(fresh_redis) as rig:
        publish_pool(rig.redis, admission={"queueLimit": 5, "queueTimeoutSeconds": 0.001})
        caller = rig.caller(await rig.gateway())
        call = caller.call_step(step_request(await caller.open()))
        assert (await anext(aiter(call))).WhichOneof("event") == "queued"
        await rig.worker()
        log = StepLog()
        async for response in call:
            log.take(response)
        assert log.committed is not None


async def test_a_store_that_has_run_for_long_gives_nobody_more_time(
    fresh_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grace, "WAIT_SECONDS", 0.0)
    async with Rig(fresh_redis) as rig:
        publish_pool(rig.redis, admission={"queueLimit": 5, "queueTimeoutSeconds": 0.001})
        caller = rig.caller(await rig.gateway())
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await caller.step(step_request(await caller.open()))
        assert reason(error) is Reason.NO_WORKER
