"""Steps at workers that are older than trunks, until they are upgraded."""

import asyncio
from typing import Any

from counting_worker import CountingWorker
from gateway_driver import LIMIT_SECONDS, POOL, Rig, StepLog, step_request
from null_script import BASE_ID, Script

TOKENS = 8
IDS = [BASE_ID + number for number in range(TOKENS)]


async def _older_worker(rig: Rig, **script: Any) -> CountingWorker:
    worker = CountingWorker(rig.redis.url, POOL, script=Script(tokens=TOKENS, **script))
    worker.knows_trunks = False
    return await rig.run(worker)


async def test_steps_at_a_worker_that_knows_no_trunk_have_calls_of_their_own(rig: Rig) -> None:
    worker = await _older_worker(rig, hang_after=5, ask_history=True)
    caller, logs = rig.caller(await rig.gateway()), [StepLog() for _ in range(3)]
    sessions = [await caller.open() for _ in logs]
    steps = [rig.spawn(caller.step(step_request(session), log)) for session, log in zip(sessions, logs, strict=True)]
    for log in logs:
        await log.has(5)
    worker.resume_output.set()
    await asyncio.gather(*steps)
    asked = worker.opened_trunks  # once or, by a step that came as the answer did, twice
    again = await caller.step(step_request(sessions[0], "s2"))
    assert [log.ids for log in (*logs, again)] == [IDS] * 4
    await worker.until(lambda: len(worker.commits) == 4)
    assert (worker.opened_trunks, worker.plain_calls) == (asked, 4)


async def test_a_client_that_leaves_an_older_worker_cancels_its_attempt_there(rig: Rig) -> None:
    worker = await _older_worker(rig, hang_after=5)
    caller, log = rig.caller(await rig.gateway()), StepLog()
    session = await caller.open()
    call = rig.spawn(caller.step(step_request(session), log))
    await log.has(5)
    call.cancel()
    async with asyncio.timeout(LIMIT_SECONDS):
        await worker.until(lambda: worker.cancels == [f"{session.id}"])


async def test_a_worker_that_is_upgraded_in_place_is_asked_for_a_trunk_again(rig: Rig) -> None:
    worker = await _older_worker(rig)
    gateway = await rig.gateway()
    caller, workers = rig.caller(gateway), gateway.life.fleet.workers
    for _ in range(2):
        await caller.step(step_request(await caller.open()))
    assert (worker.opened_trunks, worker.plain_calls) == (1, 2)
    worker.knows_trunks, worker._boot = True, "upgraded"
    await worker.publish()
    await workers.read(POOL)
    for _ in range(2):
        await caller.step(step_request(await caller.open()))
    assert (worker.opened_trunks, worker.plain_calls) == (2, 2)
