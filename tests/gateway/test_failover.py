"""A step goes on when its worker, its gateway or Redis dies: no token is lost, doubled or made twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from gateway_driver import (
    POOL,
    Caller,
    Child,
    StepLog,
    fault,
    gateway,
    gateway_process,
    publish_pool,
    reason,
    serving,
    step_request,
    world,
)
from null_worker import BASE_ID, NullWorker, Script, token_text
from redis_servers import RedisServer
from roost.contract.faults import DIRECTORY_VARIABLE
from roost.contract.reasons import Reason
from roost.v1 import session_service_pb2 as pb

TOKENS = 12
IDS = [BASE_ID + number for number in range(TOKENS)]
TEXT = "".join(map(token_text, IDS))


def _is_whole(log: StepLog) -> None:
    assert (log.ids, log.text) == (IDS, TEXT)
    assert log.committed is not None
    assert log.committed.output_tokens == TOKENS


@asynccontextmanager
async def two_workers(redis: RedisServer, **script: int) -> AsyncIterator[list[NullWorker]]:
    publish_pool(redis)
    workers = [await NullWorker(redis.url, POOL, f"null-{n}", Script(tokens=TOKENS, **script)).start() for n in (1, 2)]
    yield workers
    for worker in workers:
        await worker.stop()


async def test_another_worker_goes_on_where_the_stream_broke(redis_server: RedisServer) -> None:
    async with two_workers(redis_server, break_after=5) as workers, gateway(redis_server) as server:
        caller = Caller(server.address)
        session = await caller.open()
        log = await caller.step(step_request(session))
        _is_whole(log)
        assert log.restarts == 0
        assert log.committed is not None
        assert log.committed.failovers >= 1
        replays = [start.replay for worker in workers for start in worker.starts if start.HasField("replay")]
        assert replays[0].tokens == 5
        assert list(replays[0].output_token_ids) == IDS[:5]
        assert replays[0].text_bytes == len("".join(map(token_text, IDS[:5])).encode())
        await caller.aclose()


async def test_a_killed_worker_is_replaced(redis_server: RedisServer) -> None:
    async with two_workers(redis_server, hang_after=5) as workers, gateway(redis_server) as server:
        caller = Caller(server.address)
        session = await caller.open()
        log, task = StepLog(), None
        task = asyncio.create_task(caller.step(step_request(session), log))
        await log.has(5)
        first, second = sorted(workers, key=lambda worker: not worker.starts)
        second.script.hang_after = None
        await first.kill()
        await task
        _is_whole(log)
        assert second.starts[0].replay.tokens == 5
        await caller.aclose()


async def test_the_only_worker_may_come_back_under_its_name(redis_server: RedisServer) -> None:
    publish_pool(redis_server)
    worker = await NullWorker(redis_server.url, POOL, script=Script(tokens=TOKENS, hang_after=5)).start()
    async with gateway(redis_server) as server:
        caller = Caller(server.address)
        log = StepLog()
        task = asyncio.create_task(caller.step(step_request(await caller.open()), log))
        await log.has(5)
        await worker.kill()
        again = await NullWorker(redis_server.url, POOL, script=Script(tokens=TOKENS)).start()
        await task
        _is_whole(log)
        assert again.starts[0].replay.tokens == 5
        await caller.aclose()
        await again.stop()


async def test_a_draining_worker_is_passed_over(redis_server: RedisServer) -> None:
    async with two_workers(redis_server) as workers, gateway(redis_server) as server:
        caller = Caller(server.address)
        workers[0].draining = True  # its lease does not say so yet
        for number in range(4):
            log = await caller.step(step_request(await caller.open(), f"s{number}"))
            _is_whole(log)
            assert log.committed is not None
            assert log.committed.failovers == 0
        assert not workers[0].starts
        await caller.aclose()


async def test_a_worker_whose_deltas_have_a_gap_is_not_believed(redis_server: RedisServer) -> None:
    async with two_workers(redis_server) as workers, gateway(redis_server) as server:
        caller = Caller(server.address)
        for worker in workers:
            worker.script.lie_about_offsets = True
        call = asyncio.create_task(caller.step(step_request(await caller.open())))
        await workers[0].until(lambda: workers[0].starts or workers[1].starts)
        for worker in workers:
            worker.script.lie_about_offsets = False
        _is_whole(await call)
        await caller.aclose()


async def test_the_same_step_elsewhere_resumes_the_orphan(redis_server: RedisServer, tmp_path: Path) -> None:
    publish_pool(redis_server)
    worker = await NullWorker(redis_server.url, POOL, script=Script(tokens=TOKENS, hang_after=5)).start()
    children = [await gateway_process(redis_server, tmp_path) for _ in range(2)]
    callers = [Caller(child.address) for child in children]
    log = StepLog()
    await serving(children[0].address)
    session = await callers[0].open()
    call = asyncio.create_task(callers[0].step(step_request(session), log))
    await log.has(5)
    children[0].kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    worker.resume_output.set()
    await callers[1].step(step_request(session, received=log.cursor()), log)
    _is_whole(log)
    assert log.restarts == 0
    assert len(worker.starts) == 1
    assert len(worker.resumes) == 1
    await _close(worker, callers, children)


async def test_a_lost_orphan_restarts_the_step(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(tokens=TOKENS, hang_after=5)) as w, gateway(redis_server) as other:
        session = await w.caller.open()
        log = StepLog()
        call = asyncio.create_task(w.caller.step(step_request(session), log))
        await log.has(5)
        w.worker.script.forget_orphans = True
        w.worker.script.hang_after = None
        second = Caller(other.address)
        again = await second.step(step_request(session, received=log.cursor()), log.copy())
        assert again.restarts == 1
        _is_whole(again)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert reason(error) is Reason.ATTEMPT_FENCED
        await second.aclose()


async def test_nothing_is_void_for_a_client_that_had_nothing(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(tokens=TOKENS, hang_after=0)) as w, gateway(redis_server) as other:
        session = await w.caller.open()
        call = w.caller.call_step(step_request(session))
        assert (await anext(aiter(call))).WhichOneof("event") == "started"
        w.worker.script.forget_orphans, w.worker.script.hang_after = True, None
        second = Caller(other.address)
        log = await second.step(step_request(session))
        assert log.restarts == 0
        _is_whole(log)
        await second.aclose()


async def test_commit_waits_for_redis(fresh_redis: RedisServer) -> None:
    async with world(fresh_redis, Script(tokens=TOKENS, hang_after=5)) as w:
        session = await w.caller.open()
        log = StepLog()
        call = asyncio.create_task(w.caller.step(step_request(session), log))
        await log.has(5)
        fresh_redis.kill()
        w.worker.resume_output.set()
        await log.has(TOKENS)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.get(session.id)
        code, why, retry = fault(error.value)
        assert (code, why) == (grpc.StatusCode.UNAVAILABLE, Reason.STORE_UNAVAILABLE)
        assert retry
        fresh_redis.start()
        await call
        _is_whole(log)
        steps = await w.caller.stub.ListSteps(pb.ListStepsRequest(session_id=session.id, include_token_ids=True))
        assert [list(step.output_token_ids) for step in steps.steps] == [IDS]


async def test_a_client_that_goes_during_the_commit_changes_nothing(fresh_redis: RedisServer) -> None:
    async with world(fresh_redis, Script(tokens=TOKENS, hang_after=5)) as w:
        session = await w.caller.open()
        log = StepLog()
        call = asyncio.create_task(w.caller.step(step_request(session), log))
        await log.has(5)
        fresh_redis.kill()
        w.worker.resume_output.set()
        await log.has(TOKENS)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        fresh_redis.start()
        await w.worker.until(lambda: w.worker.commits)
        again = await w.caller.step(step_request(session))
        _is_whole(again)
        assert again.committed is not None
        assert again.committed.replayed


@pytest.mark.parametrize("point", ["reserve.done", "accepted", "commit.done"])
async def test_a_gateway_killed_on_the_way_loses_and_doubles_nothing(
    redis_server: RedisServer, tmp_path: Path, point: str
) -> None:
    """The matrix of all points and parties is tests/faults."""
    publish_pool(redis_server)
    worker = await NullWorker(redis_server.url, POOL, script=Script(tokens=TOKENS)).start()
    child = await gateway_process(redis_server, tmp_path, {DIRECTORY_VARIABLE: str(tmp_path)})
    caller = Caller(child.address)
    await serving(child.address)
    session, log = await caller.open(), StepLog()
    await caller.step(step_request(session, "one"))
    (tmp_path / f"gateway.{point}").write_text("kill")
    with pytest.raises(grpc.aio.AioRpcError):
        await caller.step(step_request(session, "two"), log)
    await child.wait()
    async with gateway(redis_server) as other:
        second = Caller(other.address)
        await second.step(step_request(session, "two", received=log.cursor()), log)
        _is_whole(log)
        assert log.restarts == 0
        assert log.committed is not None
        assert log.committed.replayed == (point == "commit.done")
        steps = await second.stub.ListSteps(pb.ListStepsRequest(session_id=session.id, include_token_ids=True))
        assert [step.step_id for step in steps.steps] == ["one", "two"]
        assert all(list(step.output_token_ids) == IDS for step in steps.steps)
        await second.aclose()
    await _close(worker, [caller], [child])


async def test_a_stopping_gateway_lets_steps_finish_or_hands_them_on(redis_server: RedisServer, tmp_path: Path) -> None:
    publish_pool(redis_server)
    worker = await NullWorker(redis_server.url, POOL, script=Script(tokens=TOKENS, hang_after=5)).start()
    child = await gateway_process(redis_server, tmp_path, drain_seconds=0.2)
    caller = Caller(child.address)
    await serving(child.address)
    session, log = await caller.open(), StepLog()
    call = asyncio.create_task(caller.step(step_request(session), log))
    await log.has(5)
    child.terminate()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await child.wait() == 0
    assert not worker.cancels
    worker.resume_output.set()
    async with gateway(redis_server) as other:
        second = Caller(other.address)
        await second.step(step_request(session, received=log.cursor()), log)
        await second.aclose()
    _is_whole(log)
    assert log.restarts == 0
    await _close(worker, [caller], [child])


async def _close(worker: NullWorker, callers: list[Caller], children: list[Child]) -> None:
    for caller in callers:
        await caller.aclose()
    for child in children:
        await child.aclose()
    await worker.stop()


async def test_a_step_that_fails_every_worker_is_given_up(redis_server: RedisServer) -> None:
    async with two_workers(redis_server) as workers:
        third = await NullWorker(redis_server.url, POOL, "null-3", Script(tokens=TOKENS)).start()
        workers.append(third)
        for worker in workers:
            worker.script.break_after, worker.script.break_always = 2, True
        async with gateway(redis_server) as server:
            caller = Caller(server.address)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await caller.step(step_request(await caller.open()))
            assert fault(error.value)[:2] == (grpc.StatusCode.INTERNAL, Reason.INTERNAL)
            assert [len(worker.starts) for worker in workers] == [1, 1, 1]
            await caller.aclose()
