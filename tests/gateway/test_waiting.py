"""Many steps, little room: who is served first, over two gateways with one ledger."""

import asyncio

from gateway_driver import LIMIT_SECONDS, POOL, Rig, StepLog, publish_pool, step_request
from null_script import Script
from roost.store.keys import PoolKeys

ROOM_FOR_ONE = 600


async def test_a_new_session_never_overtakes_a_waiting_continuation_of_another_gateway(rig: Rig) -> None:
    worker = await rig.worker(script=Script(capacity_tokens=ROOM_FOR_ONE))
    first, second = rig.caller(await rig.gateway()), rig.caller(await rig.gateway())
    old = await first.open()
    await first.step(step_request(old, "first"))
    worker.script.hang_after = 1
    running = rig.spawn(first.step(step_request(await first.open(), "running")))
    await worker.until(lambda: len(worker.starts) == 2)
    new = await second.open()
    waiting = [
        await rig.waiting(second, step_request(new, "new")),
        await rig.waiting(first, step_request(old, "continuation")),
    ]
    worker.script.hang_after = None
    worker.resume_output.set()
    await asyncio.gather(running, *waiting)
    assert [start.session.session_id for start in worker.starts[2:]] == [old.id, new.id]


async def test_a_full_revision_does_not_hold_up_steps_of_another(rig: Rig) -> None:
    publish_pool(rig.redis, activeRevision="rev-1", sessions={"onModelChange": "Refuse"})
    old = await rig.worker("old", Script(capacity_tokens=ROOM_FOR_ONE), revision="rev-1")
    caller = rig.caller(gateway := await rig.gateway())
    sessions = [await caller.open() for _ in range(2)]
    for session in sessions:
        await caller.step(step_request(session, "first"))
    old.script.hang_after = 1
    running = rig.spawn(caller.step(step_request(sessions[0], "running")))
    await old.until(lambda: len(old.starts) == 3)
    await rig.worker("new", revision="rev-2")
    publish_pool(rig.redis, activeRevision="rev-2", sessions={"onModelChange": "Refuse"})
    await gateway.life.fleet.pools.reread(POOL)
    waiting = await rig.waiting(caller, step_request(sessions[1], "waits"))
    log = await caller.step(step_request(await caller.open(), "new"))
    assert log.committed is not None
    assert "queued" not in log.events
    assert not waiting.done()
    old.script.hang_after = None
    old.resume_output.set()
    assert all(log.committed for log in await asyncio.gather(running, waiting))


async def test_only_the_first_of_a_gateway_waits_in_the_store(rig: Rig) -> None:
    worker = await rig.worker(script=Script(capacity_tokens=ROOM_FOR_ONE))
    caller = rig.caller(await rig.gateway())
    low, high = await caller.open(role="critic"), await caller.open(role="coder")
    for session in (low, high):
        await caller.step(step_request(session, "first"))
    worker.script.hang_after = 1
    running = rig.spawn(caller.step(step_request(await caller.open(), "running")))
    await worker.until(lambda: len(worker.starts) == 3)
    waiting = [await rig.waiting(caller, step_request(session, "next")) for session in (low, high)]
    with rig.redis.client() as client:
        async with asyncio.timeout(LIMIT_SECONDS):
            while [place[:2] for place in client.hvals(PoolKeys(POOL).waiters)] != [b"0:"]:
                await caller.get(low.id)  # each question is a call, which lets the gateway go on
    worker.script.hang_after = None
    worker.resume_output.set()
    await asyncio.gather(running, *waiting)
    assert [start.session.session_id for start in worker.starts[3:]] == [high.id, low.id]


async def test_two_gateways_never_reserve_more_than_there_is(rig: Rig) -> None:
    script = Script(capacity_tokens=3 * ROOM_FOR_ONE, tokens=4, interval=0.005)
    worker = await rig.worker(script=script)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            worker.changed.clear()
            most = max(most, len(worker.attempts))
            await worker.changed.wait()

    rig.spawn(watch())
    callers = [rig.caller(await rig.gateway()) for _ in range(2)]
    steps = [callers[n % 2].step(step_request(await callers[n % 2].open(), f"s{n}")) for n in range(16)]
    logs = await asyncio.gather(*steps)
    assert all(log.committed is not None for log in logs)
    assert any("queued" in log.events for log in logs)
    assert most <= 3


async def test_a_waiting_step_whose_client_goes_gives_its_place_up(rig: Rig) -> None:
    worker = await rig.worker(script=Script(capacity_tokens=ROOM_FOR_ONE, hang_after=1))
    caller = rig.caller(await rig.gateway())
    running = rig.spawn(caller.step(step_request(await caller.open())))
    await worker.until(lambda: worker.starts)
    sessions = [await caller.open() for _ in range(2)]
    leaving = await rig.waiting(caller, step_request(sessions[0]))
    staying = await rig.waiting(caller, step_request(sessions[1]))
    leaving.cancel()
    worker.resume_output.set()
    assert (await running).committed is not None
    assert (await staying).committed is not None
    assert sessions[0].id not in [start.session.session_id for start in worker.starts]


async def test_an_attempt_that_resumes_output_keeps_no_place_among_the_waiters(rig: Rig) -> None:
    worker = await rig.worker(script=Script(hang_after=2, capacity_tokens=ROOM_FOR_ONE))
    lost = await rig.gateway()
    first, log = rig.caller(lost), StepLog()
    session = await first.open()
    call = rig.spawn(first.step(step_request(session), log))
    await log.has(2)
    await lost.stop(0.0)
    keys = PoolKeys(POOL)
    with rig.redis.client() as client:  # the reservation ran out, and another attempt has the room
        client.delete(keys.reservations)
        client.hset(keys.reservations, f"{worker.worker_id}|{'ab' * 16}", f"{ROOM_FOR_ONE}:{2**52}")
        second = rig.caller(await rig.gateway())
        retry = rig.spawn(second.step(step_request(session, received=log.cursor()), log.copy()))
        await worker.until(lambda: worker.resumes)
        assert client.hlen(keys.waiters) == 0
        worker.resume_output.set()
        assert (await retry).committed is not None
    await asyncio.gather(call, return_exceptions=True)
