"""A step goes by what workers publish that they have cached, not by who committed last."""

import asyncio

import pytest

from gateway_driver import Rig, StepLog, publish_pool, step_request
from null_script import Script
from roost.store.keys import PoolKeys
from roost.v1 import session_service_pb2 as pb

LONG_LOG = 6000
"""Tokens that take longer to compute again than a running step takes to end."""
ROOM_FOR_THE_SESSION = 7000


@pytest.mark.parametrize("dropped", [True, False])
async def test_a_session_is_held_at_a_full_worker_only_while_that_has_it_cached(rig: Rig, dropped: bool) -> None:
    publish_pool(rig.redis, model={"name": "null", "contextTokens": 0})
    home = await rig.worker("home", Script(prompt_ids=LONG_LOG, capacity_tokens=ROOM_FOR_THE_SESSION))
    gateway = await rig.gateway()
    caller = rig.caller(gateway)
    session = await caller.open()
    await caller.step(step_request(session, "first"))
    await home.has_heard_of(1)
    home.script.hang_after = 1
    running = rig.spawn(caller.step(step_request(await caller.open(), "filler")))
    await home.until(lambda: len(home.starts) == 2)
    other = await rig.worker("other", Script(capacity_tokens=ROOM_FOR_THE_SESSION))
    await gateway.life.fleet.workers.refresh(session.pool)
    with rig.redis.client() as client:  # as if the step had ended a while ago: what is published is believed
        client.hset(PoolKeys(session.pool).session(session.id), "updated", 0)
    if dropped:
        home.parked.clear()
    await home.publish()

    log, queued = StepLog(), asyncio.Event()

    async def second() -> None:
        try:
            async for response in caller.call_step(step_request(session, "second")):
                log.take(response)
                queued.set()
        finally:
            queued.set()

    step = rig.spawn(second())
    await queued.wait()
    assert log.events == (["started"] if dropped else ["queued"])
    home.resume_output.set()
    await asyncio.gather(step, running)
    assert [start.session.session_id for start in other.starts] == ([session.id] if dropped else [])
    assert log.committed is not None
    assert log.committed.why.place == (pb.STEP_PLACE_HOME_EMPTY if dropped else pb.STEP_PLACE_HOME)
