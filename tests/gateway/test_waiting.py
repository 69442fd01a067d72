"""Many steps, little room: who is served first, over two gateways with one ledger."""

import asyncio

from gateway_driver import POOL, Caller, StepLog, gateway, publish_pool, step_request
from null_worker import NullWorker, Script
from redis_servers import RedisServer

ROOM_FOR_ONE = 600


async def _queued(caller: Caller, session: str, step_id: str) -> "asyncio.Task[StepLog]":
    """A step that is known to wait."""
    queued, log = asyncio.Event(), StepLog()

    async def run() -> StepLog:
        async for response in caller.call_step(step_request(session, step_id)):
            log.take(response)
            queued.set()
        return log

    task = asyncio.create_task(run())
    await queued.wait()
    assert log.events == ["queued"]
    return task


async def test_a_new_session_never_overtakes_a_waiting_continuation_of_another_gateway(
    redis_server: RedisServer,
) -> None:
    publish_pool(redis_server)
    worker = await NullWorker(redis_server.url, POOL, script=Script(capacity_tokens=ROOM_FOR_ONE)).start()
    async with gateway(redis_server) as one, gateway(redis_server) as two:
        callers = [Caller(one.address), Caller(two.address)]
        old = await callers[0].open()
        await callers[0].step(step_request(old, "first"))
        worker.script.hang_after = 1
        running = asyncio.create_task(callers[0].step(step_request(await callers[0].open(), "running")))
        await worker.until(lambda: len(worker.starts) == 2)
        new = await callers[1].open()
        waiting = [await _queued(callers[1], new.id, "new"), await _queued(callers[0], old.id, "continuation")]
        worker.script.hang_after = None
        worker.resume_output.set()
        await asyncio.gather(running, *waiting)
        order = [start.session.session_id for start in worker.starts[2:]]
        assert order == [old.id, new.id]
        for caller in callers:
            await caller.aclose()
    await worker.stop()


async def test_two_gateways_never_reserve_more_than_there_is(redis_server: RedisServer) -> None:
    publish_pool(redis_server)
    script = Script(capacity_tokens=3 * ROOM_FOR_ONE, tokens=4, interval=0.005)
    worker = await NullWorker(redis_server.url, POOL, script=script).start()
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            worker.changed.clear()
            most = max(most, len(worker.attempts))
            await worker.changed.wait()

    watcher = asyncio.create_task(watch())
    async with gateway(redis_server) as one, gateway(redis_server) as two:
        callers = [Caller(one.address), Caller(two.address)]
        steps = [callers[n % 2].step(step_request(await callers[n % 2].open(), f"s{n}")) for n in range(16)]
        logs = await asyncio.gather(*steps)
        assert all(log.committed is not None for log in logs)
        assert any("queued" in log.events for log in logs)
        for caller in callers:
            await caller.aclose()
    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)
    assert most <= 3
    await worker.stop()


async def test_a_waiting_step_whose_client_goes_gives_its_place_up(redis_server: RedisServer) -> None:
    publish_pool(redis_server)
    script = Script(capacity_tokens=ROOM_FOR_ONE, hang_after=1)
    worker = await NullWorker(redis_server.url, POOL, script=script).start()
    async with gateway(redis_server) as server:
        caller = Caller(server.address)
        running = asyncio.create_task(caller.step(step_request(await caller.open())))
        await worker.until(lambda: worker.starts)
        sessions = [await caller.open() for _ in range(2)]
        leaving = await _queued(caller, sessions[0].id, "leaves")
        staying = await _queued(caller, sessions[1].id, "stays")
        leaving.cancel()
        worker.resume_output.set()
        assert (await running).committed is not None
        assert (await staying).committed is not None
        assert sessions[0].id not in [start.session.session_id for start in worker.starts]
        await caller.aclose()
    await worker.stop()
