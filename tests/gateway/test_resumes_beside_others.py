"""Output is resumed at a worker that lives, also where another step has given that worker up."""

import asyncio
from typing import Any

import grpc.aio
import pytest

from cutting_proxy import CuttingProxy
from gateway_driver import LIMIT_SECONDS, POOL, Rig, StepLog, publish_pool, step_request
from null_script import BASE_ID, Script
from null_worker import NullWorker

TOKENS = 12
IDS = [BASE_ID + number for number in range(TOKENS)]


class AcceptsLate(NullWorker):
    """Does not accept a step that says `late`."""

    late = False

    async def _begin(self, start: Any, requests: Any, context: Any) -> Any:
        if start.messages[0].content == "late":
            self.late = True
            self._happened()
            await asyncio.Event().wait()
        return await super()._begin(start, requests, context)


async def test_streams_that_break_together_are_resumed_whichever_of_them_is_told_first(rig: Rig) -> None:
    """The step that its worker had not accepted opened its stream first, so it fails first and goes elsewhere."""
    worker = await rig.run(AcceptsLate(rig.redis.url, POOL, script=Script(tokens=TOKENS, hang_after=5)))
    async with CuttingProxy(worker.address) as proxy:
        worker.address = proxy.address
        await worker.publish()
        gateway = await rig.gateway()
        caller, late, log = rig.caller(gateway), StepLog(), StepLog()
        waiting = rig.spawn(caller.step(step_request(await caller.open(), text="late"), late))
        async with asyncio.timeout(LIMIT_SECONDS):
            await worker.until(lambda: worker.late)
        running = rig.spawn(caller.step(step_request(await caller.open()), log))
        await log.has(5)
        other = await rig.worker("null-2", Script(tokens=TOKENS))
        await gateway.life.fleet.workers.refresh(POOL)
        proxy.cut()
        worker.resume_output.set()
        await asyncio.gather(waiting, running)
    assert (late.ids, log.ids) == (IDS, IDS)
    assert (len(worker.starts), len(worker.resumes), len(other.starts)) == (1, 1, 1)
    assert log.committed is not None
    assert log.committed.failovers == 0


class AcceptsWhatComesAgain(NullWorker):
    """Accepts a step that says `late` once it has come for the second time."""

    late = 0

    async def _begin(self, start: Any, requests: Any, context: Any) -> Any:
        if start.messages[0].content == "late":
            self.late += 1
            self._happened()
            if self.late == 1:
                await asyncio.Event().wait()
        return await super()._begin(start, requests, context)


async def test_a_step_that_the_only_worker_had_not_accepted_begins_there_again_at_once(rig: Rig) -> None:
    """It waits for nothing: the queue's timeout would end that."""
    publish_pool(rig.redis, admission={"queueLimit": 5, "queueTimeoutSeconds": 0.001})
    worker = await rig.run(AcceptsWhatComesAgain(rig.redis.url, POOL, script=Script(tokens=TOKENS)))
    async with CuttingProxy(worker.address) as proxy:
        worker.address = proxy.address
        await worker.publish()
        caller, log = rig.caller(await rig.gateway()), StepLog()
        step = rig.spawn(caller.step(step_request(await caller.open(), text="late"), log))
        async with asyncio.timeout(LIMIT_SECONDS):
            await worker.until(lambda: worker.late)
        proxy.cut()
        await step
        beside = await caller.step(step_request(await caller.open()))
    assert (log.ids, beside.ids) == (IDS, IDS)
    assert worker.late == 2
    assert log.committed is not None
    assert log.committed.failovers == 0


async def test_an_orphan_is_resumed_although_another_step_has_given_its_worker_up(rig: Rig) -> None:
    workers = [await rig.worker(f"null-{n}", Script(tokens=TOKENS, hang_after=5)) for n in (1, 2)]
    there, here = await rig.gateway(), await rig.gateway()
    first, second = rig.caller(there), rig.caller(here)
    session, log = await first.open(), StepLog()
    call = rig.spawn(first.step(step_request(session), log))
    await log.has(5)
    (home,) = [worker for worker in workers if worker.starts]
    known = here.life.fleet.workers.get(POOL, home.worker_id)
    assert known is not None
    here.life.fleet.workers.mark_broken(known)  # as by a step whose stream broke before the worker had accepted it
    again = log.copy()
    retry = rig.spawn(second.step(step_request(session, received=log.cursor()), again))
    with pytest.raises(grpc.aio.AioRpcError):
        await call  # it has been taken over
    for worker in workers:
        worker.resume_output.set()
    await retry
    assert again.ids == IDS
    assert again.restarts == 0
    assert (sum(len(worker.starts) for worker in workers), len(home.resumes)) == (1, 1)
