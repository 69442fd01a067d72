"""A step goes on when its worker, its gateway or Redis dies: no token is lost, doubled or made twice."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from cutting_proxy import CuttingProxy
from gateway_driver import LIMIT_SECONDS, POOL, Rig, StepLog, fault, publish_pool, reason, step_request, world
from null_script import BASE_ID, Script, token_text
from null_worker import NullWorker
from redis_servers import RedisServer
from roost.contract.events import TextPart
from roost.contract.reasons import Reason
from roost.v1 import session_service_pb2 as pb
from roost_gateway.step.attempt import StepAttempt

TOKENS = 12
IDS = [BASE_ID + number for number in range(TOKENS)]
TEXT = "".join(map(token_text, IDS))


def _is_whole(log: StepLog) -> None:
    assert (log.ids, log.text) == (IDS, TEXT)
    assert log.parts.after(0) == (TextPart(TEXT),)
    assert log.committed is not None
    assert log.committed.output_tokens == TOKENS


async def _two_workers(rig: Rig, **script: Any) -> list[NullWorker]:
    return [await rig.worker(f"null-{n}", Script(tokens=TOKENS, **script)) for n in (1, 2)]


async def test_a_stream_that_breaks_is_resumed_at_its_worker(rig: Rig) -> None:
    workers = await _two_workers(rig, break_after=5)
    caller = rig.caller(await rig.gateway())
    log = await caller.step(step_request(await caller.open()))
    _is_whole(log)
    assert log.restarts == 0
    assert log.committed is not None
    assert log.committed.failovers == 0
    assert [len(worker.starts) for worker in workers] in ([1, 0], [0, 1])
    (resume,) = [resume for worker in workers for resume in worker.resumes]
    assert resume.attempt == resume.new_attempt
    assert (resume.from_token, resume.from_text_byte) == (5, len("".join(map(token_text, IDS[:5])).encode()))
    assert resume.from_part == len("".join(map(token_text, IDS[:5])).rstrip())


async def test_a_connection_that_is_cut_costs_no_token_and_no_worker(rig: Rig) -> None:
    worker = await rig.worker(script=Script(tokens=TOKENS, hang_after=5))
    async with CuttingProxy(worker.address) as proxy:
        worker.address = proxy.address
        await worker.publish()
        caller, logs = rig.caller(await rig.gateway()), [StepLog(), StepLog()]
        steps = [rig.spawn(caller.step(step_request(await caller.open()), log)) for log in logs]
        for log in logs:
            await log.has(5)
        proxy.cut()
        worker.resume_output.set()
        await asyncio.gather(*steps)
        assert proxy.connections == 2, "both streams go on over one new connection"
    for log in logs:
        _is_whole(log)
        assert log.restarts == 0
    assert (len(worker.starts), len(worker.resumes)) == (2, 2)


async def test_a_resume_whose_answer_is_lost_is_found_under_its_own_attempt(rig: Rig) -> None:
    worker = _LosesAnAnswer(rig.redis.url, POOL, script=Script(tokens=TOKENS, hang_after=5))
    await worker.start()
    try:
        first, second = rig.caller(await rig.gateway()), rig.caller(await rig.gateway())
        session, log = await first.open(), StepLog()
        call = rig.spawn(first.step(step_request(session), log))
        await log.has(5)
        again, attempt = log.copy(), log.attempt
        retry = rig.spawn(second.step(step_request(session, received=log.cursor()), again))
        async with asyncio.timeout(LIMIT_SECONDS):
            await worker.until(lambda: len(worker.resumes) == 3)
        worker.resume_output.set()
        await retry
        _is_whole(again)
        assert again.restarts == 0
        assert len(worker.starts) == 1
        tried = [resume.attempt for resume in worker.resumes]
        assert tried == [attempt, attempt, worker.resumes[0].new_attempt]
        await asyncio.gather(call, return_exceptions=True)
    finally:
        await worker.stop()


class _LosesAnAnswer(NullWorker):
    """Takes the first Resume in, and breaks its stream."""

    async def _take_over(self, resume: Any, context: Any) -> Any:
        taken = await super()._take_over(resume, context)
        if len(self.resumes) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "scripted break")
        return taken


async def test_output_that_its_worker_forgot_is_replayed(rig: Rig) -> None:
    workers = await _two_workers(rig, break_after=5, forget_orphans=True)
    caller = rig.caller(await rig.gateway())
    log = await caller.step(step_request(await caller.open()))
    _is_whole(log)
    assert log.restarts == 0
    assert log.committed is not None
    assert log.committed.failovers >= 1
    replays = [start.replay for worker in workers for start in worker.starts if start.HasField("replay")]
    assert replays[0].tokens == 5
    assert list(replays[0].output_token_ids) == IDS[:5]
    assert replays[0].text_bytes == len("".join(map(token_text, IDS[:5])).encode())
    assert replays[0].parts == len("".join(map(token_text, IDS[:5])).rstrip())


async def test_a_killed_worker_is_replaced(rig: Rig) -> None:
    workers = await _two_workers(rig, hang_after=5)
    caller, log = rig.caller(await rig.gateway()), StepLog()
    task = rig.spawn(caller.step(step_request(await caller.open()), log))
    await log.has(5)
    first, second = sorted(workers, key=lambda worker: not worker.starts)
    second.script.hang_after = None
    await first.kill()
    await task
    _is_whole(log)
    assert second.starts[0].replay.tokens == 5


async def test_the_only_worker_may_come_back_under_its_name(rig: Rig) -> None:
    worker = await rig.worker(script=Script(tokens=TOKENS, hang_after=5))
    caller, log = rig.caller(await rig.gateway()), StepLog()
    task = rig.spawn(caller.step(step_request(await caller.open()), log))
    await log.has(5)
    await worker.kill()
    again = await rig.worker(script=Script(tokens=TOKENS))
    await task
    _is_whole(log)
    assert again.starts[0].replay.tokens == 5


async def test_a_dead_worker_is_not_called_again_while_its_lease_lasts(rig: Rig) -> None:
    publish_pool(rig.redis, admission={"queueLimit": 5, "queueTimeoutSeconds": 0.2})
    worker = await rig.worker()
    caller = rig.caller(await rig.gateway())
    session = await caller.open()
    await worker.kill()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await caller.step(step_request(session), timeout=LIMIT_SECONDS)
    assert reason(error) is Reason.NO_WORKER


async def test_a_draining_worker_is_passed_over(rig: Rig) -> None:
    workers = await _two_workers(rig)
    caller = rig.caller(await rig.gateway())
    workers[0].draining = True  # its lease does not say so yet
    for number in range(4):
        log = await caller.step(step_request(await caller.open(), f"s{number}"))
        _is_whole(log)
        assert log.committed is not None
        assert log.committed.failovers == 0
    assert not workers[0].starts


async def test_workers_are_called_with_the_secret_of_their_pool(rig: Rig) -> None:
    worker = await rig.worker(secret="hush")
    stranger = rig.caller(await rig.gateway())
    friend = rig.caller(await rig.gateway(pool_secrets={POOL: "hush"}))
    session = await stranger.open()
    with pytest.raises(grpc.aio.AioRpcError):
        await stranger.step(step_request(session), timeout=1.0)
    assert not worker.starts
    assert (await friend.step(step_request(session))).committed is not None


async def test_a_worker_whose_deltas_have_a_gap_is_not_believed(rig: Rig) -> None:
    liar = await rig.worker("null-1", Script(tokens=TOKENS, lie_about_offsets=True))
    await rig.worker("null-2", Script(tokens=TOKENS))
    caller = rig.caller(await rig.gateway())
    while not liar.starts:  # which worker gets a new session is by chance
        _is_whole(await caller.step(step_request(await caller.open())))
    assert len(liar.starts) == 1


async def test_a_step_that_fails_every_worker_is_given_up(rig: Rig) -> None:
    workers = await _two_workers(rig, break_after=2, break_always=True)
    workers.append(await rig.worker("null-3", Script(tokens=TOKENS, break_after=2, break_always=True)))
    caller = rig.caller(await rig.gateway())
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await caller.step(step_request(await caller.open()))
    assert fault(error.value)[:2] == (grpc.StatusCode.UNAVAILABLE, Reason.WORKER_FAILED)
    assert [len(worker.starts) for worker in workers] == [1, 1, 1]
    assert [len(worker.resumes) for worker in workers] == [1, 1, 1]


async def test_the_same_step_elsewhere_resumes_the_orphan(rig: Rig, tmp_path: Path) -> None:
    worker = await rig.worker(script=Script(tokens=TOKENS, hang_after=5))
    child, other = await rig.process(tmp_path), await rig.gateway()
    first, second = rig.caller(child), rig.caller(other)
    session, log = await first.open(), StepLog()
    call = rig.spawn(first.step(step_request(session), log))
    await log.has(5)
    child.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    worker.resume_output.set()
    await second.step(step_request(session, received=log.cursor()), log)
    _is_whole(log)
    assert log.restarts == 0
    assert (len(worker.starts), len(worker.resumes)) == (1, 1)


async def test_a_gateway_that_died_before_the_worker_knew_it_hides_no_orphan(rig: Rig, tmp_path: Path) -> None:
    """The last attempt never reached the worker; the one that the client has output of is still there."""
    worker = await rig.worker(script=Script(tokens=TOKENS, hang_after=5))
    child = await rig.process(tmp_path, "gateway.begin.done:kill:1")
    first, last = rig.caller(await rig.gateway()), rig.caller(await rig.gateway())
    session, log = await first.open(), StepLog()
    call = rig.spawn(first.step(step_request(session), log))
    await log.has(5)
    with pytest.raises(grpc.aio.AioRpcError):
        await rig.caller(child).step(step_request(session, received=log.cursor()))
    taken_over = log.copy()
    worker.resume_output.set()
    await last.step(step_request(session, received=taken_over.cursor()), taken_over)
    _is_whole(taken_over)
    assert taken_over.restarts == 0
    assert len(worker.starts) == 1
    assert len(worker.resumes) == 2
    await asyncio.gather(call, return_exceptions=True)


async def test_a_lost_orphan_restarts_the_step(rig: Rig) -> None:
    worker = await rig.worker(script=Script(tokens=TOKENS, hang_after=5))
    first, second = rig.caller(await rig.gateway()), rig.caller(await rig.gateway())
    session, log = await first.open(), StepLog()
    call = rig.spawn(first.step(step_request(session), log))
    await log.has(5)
    worker.script.forget_orphans = True
    worker.script.hang_after = None
    again = await second.step(step_request(session, received=log.cursor()), log.copy())
    assert again.restarts == 1
    _is_whole(again)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert reason(error) is Reason.ATTEMPT_FENCED


async def test_nothing_is_void_for_a_client_that_had_nothing(rig: Rig) -> None:
    worker = await rig.worker(script=Script(tokens=TOKENS, hang_after=0))
    first, second = rig.caller(await rig.gateway()), rig.caller(await rig.gateway())
    session = await first.open()
    call = first.call_step(step_request(session))
    assert (await anext(aiter(call))).WhichOneof("event") == "started"
    worker.script.forget_orphans, worker.script.hang_after = True, None
    log = await second.step(step_request(session))
    assert log.restarts == 0
    _is_whole(log)
    call.cancel()


async def test_commit_waits_for_redis(fresh_redis: RedisServer) -> None:
    async with world(fresh_redis, Script(tokens=TOKENS, hang_after=5)) as w:
        session = await w.caller.open()
        log = StepLog()
        call = w.rig.spawn(w.caller.step(step_request(session), log))
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


async def test_a_client_that_goes_during_the_commit_changes_nothing(
    fresh_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits, committing = StepAttempt.commits, asyncio.Event()

    def note_commit(attempt: StepAttempt) -> None:
        commits(attempt)
        committing.set()

    monkeypatch.setattr(StepAttempt, "commits", note_commit)
    async with world(fresh_redis, Script(tokens=TOKENS, hang_after=5)) as w:
        session = await w.caller.open()
        log = StepLog()
        call = w.rig.spawn(w.caller.step(step_request(session), log))
        await log.has(5)
        fresh_redis.kill()
        w.worker.resume_output.set()
        await committing.wait()  # all tokens may have come before the worker's last message has
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        fresh_redis.start()
        await w.worker.until(lambda: w.worker.commits)
        again = await w.caller.step(step_request(session))
        _is_whole(again)
        assert again.committed is not None
        assert again.committed.replayed


@pytest.mark.parametrize("point", ["reserve.done", "accepted", "commit.done"])
async def test_a_gateway_killed_on_the_way_loses_and_doubles_nothing(rig: Rig, tmp_path: Path, point: str) -> None:
    """The matrix of all points and parties is tests/faults."""
    await rig.worker(script=Script(tokens=TOKENS))
    child, other = await rig.process(tmp_path, f"gateway.{point}:kill:2"), await rig.gateway()
    first, second = rig.caller(child), rig.caller(other)
    session, log = await first.open(), StepLog()
    await first.step(step_request(session, "one"))
    with pytest.raises(grpc.aio.AioRpcError):
        await first.step(step_request(session, "two"), log)
    await child.wait()
    await second.step(step_request(session, "two", received=log.cursor()), log)
    _is_whole(log)
    assert log.restarts == 0
    assert log.committed is not None
    assert log.committed.replayed == (point == "commit.done")
    steps = await second.stub.ListSteps(pb.ListStepsRequest(session_id=session.id, include_token_ids=True))
    assert [step.step_id for step in steps.steps] == ["one", "two"]
    assert all(list(step.output_token_ids) == IDS for step in steps.steps)


async def test_a_stopping_gateway_hands_its_steps_on(rig: Rig, tmp_path: Path) -> None:
    worker = await rig.worker(script=Script(tokens=TOKENS, hang_after=5))
    child, other = await rig.process(tmp_path, drain_seconds=0.2), await rig.gateway()
    first, second = rig.caller(child), rig.caller(other)
    session, log = await first.open(), StepLog()
    call = rig.spawn(first.step(step_request(session), log))
    await log.has(5)
    child.terminate()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await child.wait() == 0
    assert not worker.cancels
    worker.resume_output.set()
    await second.step(step_request(session, received=log.cursor()), log)
    _is_whole(log)
    assert log.restarts == 0
