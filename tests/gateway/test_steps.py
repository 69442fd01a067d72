"""Steps over real gRPC, a real Redis and a null worker."""

import asyncio
from typing import Any

import grpc
import pytest

from gateway_driver import LIMIT_SECONDS, POOL, Rig, StepLog, World, fault, publish_pool, reason, step_request, world
from null_script import BASE_ID, Script, token_text
from redis_servers import RedisServer
from roost import wire_steps
from roost.contract.events import Committed, Event
from roost.contract.loghash import extend, pack_ids
from roost.contract.reasons import Reason
from roost.store.records import AlreadyCommitted, Began, BeginRequest
from roost.store.redis_store import RedisStore
from roost.v1 import session_service_pb2 as pb
from roost_gateway.core.caller import ANYONE
from roost_gateway.core.facts import FactsCache
from roost_gateway.fleet import grace
from roost_gateway.step import steps
from roost_gateway.step.call import StepCall
from roost_gateway.step.relay import Relay


def expected(tokens: int) -> tuple[list[int], str]:
    ids = [BASE_ID + number for number in range(tokens)]
    return ids, "".join(map(token_text, ids))


async def test_a_step_streams_its_output_and_commits_it(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(tokens=8, prompt_ids=4)) as w:
        session = await w.caller.open(system="be brief")
        log = await w.caller.step(step_request(session))
        ids, text = expected(8)
        assert (log.ids, log.text) == (ids, text)
        assert log.events[0] == "started"
        assert log.events[-1] == "committed"
        committed = log.committed
        assert committed is not None
        assert committed.head.length == 12
        assert committed.head.log_hash == extend(b"", pack_ids([*range(4), *ids]))
        assert committed.output.content == text
        assert not committed.replayed
        await w.worker.until(lambda: w.worker.commits)
        assert w.worker.commits == [(session.id, committed.head)]
        start = w.worker.starts[0]
        assert (start.tenant, start.system, start.session.head.length) == ("default", "be brief", 0)
        assert start.sampling.seed == committed.seed


async def test_warnings_and_reasoning_come_with_the_step_whenever_it_is_sent(redis_server: RedisServer) -> None:
    async with world(
        redis_server, Script(warnings=("the session has no tool 'rm'",), reasoning="Hm.", reasoning_tokens=3)
    ) as w:
        request = step_request(await w.caller.open())
        for replayed in (False, True):
            committed = (await w.caller.step(request)).committed
            assert committed is not None
            assert (committed.replayed, list(committed.warnings)) == (replayed, ["the session has no tool 'rm'"])
            assert (committed.reasoning, committed.reasoning_tokens) == ("Hm.", 3)
        logged = await w.gateway.life.gateway.list_steps(request.session_id, ANYONE)
        assert [(step.reasoning, step.reasoning_tokens) for step in logged.steps] == [("Hm.", 3)]


async def test_the_next_step_continues_the_log_where_it_is_parked(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        first = await w.caller.step(step_request(session, "a"))
        assert first.committed is not None
        second = await w.caller.step(step_request(session, "b", expected_head=first.committed.head))
        assert second.committed is not None
        assert second.committed.index == 1
        assert second.committed.usage.cached_tokens == first.committed.head.length - 1
        assert second.committed.usage.reconstructed_tokens == 0


async def test_the_gateway_counts_a_step_as_committed_before_its_client_can_send_the_next(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, note, convert = list[str](), FactsCache.committed, wire_steps.event_to_wire

    def noted(facts: FactsCache, call: StepCall) -> None:
        order.append("noted")
        note(facts, call)

    def sent(event: Event) -> pb.StepResponse:
        order.extend(["sent"] if isinstance(event, Committed) else [])
        return convert(event)

    monkeypatch.setattr(FactsCache, "committed", noted)
    monkeypatch.setattr(wire_steps, "event_to_wire", sent)
    async with world(redis_server) as w:
        await w.caller.step(step_request(await w.caller.open()))
    assert order == ["noted", "sent"]


async def test_a_committed_step_does_not_fail_when_the_gateway_cannot_count_it(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FactsCache, "committed", broken)
    async with world(redis_server) as w:
        assert (await w.caller.step(step_request(await w.caller.open()))).committed is not None
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("broken", ["__init__", "generate"])
async def test_a_step_that_failed_may_come_again_at_once(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Also when its attempt ends in the store long after it has failed in the gateway."""
    abort = RedisStore.abort
    async with world(redis_server) as w:
        session = await w.caller.open()

        async def late(*arguments: Any) -> int | None:
            for _ in range(20):
                await w.caller.get(session.id)
            return await abort(*arguments)

        def fails(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(steps, "GIVE_UP_SECONDS", LIMIT_SECONDS)
            patch.setattr(RedisStore, "abort", late)
            patch.setattr(Relay, broken, fails)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await w.caller.step(step_request(session, "a"))
            assert reason(error) == Reason.INTERNAL
        assert (await w.caller.step(step_request(session, "b"))).committed is not None


async def test_history_is_streamed_to_a_worker_that_lacks_it(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(ask_history=True)) as w:
        session = await w.caller.open()
        await w.caller.step(step_request(session, "a"))
        second = await w.caller.step(step_request(session, "b"))
        assert second.committed is not None
        assert second.committed.usage.reconstructed_tokens == 11
        assert second.committed.head.length == 24


async def test_a_committed_step_is_told_again_and_not_generated(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        first = await w.caller.step(step_request(session))
        again = await w.caller.step(step_request(session))
        assert (again.ids, again.text) == (first.ids, first.text)
        assert again.committed is not None
        assert again.committed.replayed
        assert again.committed.head == first.committed.head  # type: ignore[union-attr]
        assert len(w.worker.starts) == 1


async def test_a_committed_step_is_told_from_the_cursor(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        first = await w.caller.step(step_request(session))
        part = StepLog(attempt=first.attempt, ids=first.ids[:3], text="".join(map(token_text, first.ids[:3])))
        again = await w.caller.step(step_request(session, received=part.cursor()), part)
        assert again.restarts == 0
        assert (again.ids, again.text) == (first.ids, first.text)


async def test_a_cursor_of_an_attempt_that_did_not_commit_restarts_the_text(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        first = await w.caller.step(step_request(session))
        foreign = pb.Cursor(attempt=pb.Attempt(epoch=1, nonce=b"x" * 16), tokens=3, text_bytes=5)
        again = await w.caller.step(step_request(session, received=foreign))
        assert again.restarts == 1
        assert (again.ids, again.text) == (first.ids, first.text)


async def test_a_step_id_for_another_content_is_refused(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        await w.caller.step(step_request(session, text="one"))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.step(step_request(session, text="two"))
        assert reason(error) is Reason.STEP_ID_REUSED


async def test_another_step_of_a_running_session_is_told_when_to_come_back(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(hang_after=2)) as w:
        session = await w.caller.open()
        running = w.rig.spawn(w.caller.step(step_request(session, "a")))
        await w.worker.until(lambda: w.worker.starts)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.step(step_request(session, "b"))
        code, why, retry = fault(error.value)
        assert (code, why) == (grpc.StatusCode.ABORTED, Reason.ANOTHER_STEP_RUNNING)
        assert retry
        w.worker.resume_output.set()
        assert (await running).committed is not None


async def test_a_client_that_cancels_frees_worker_and_ledger(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(hang_after=2)) as w:
        session = await w.caller.open()
        call = w.caller.call_step(step_request(session))
        async for response in call:
            if response.WhichOneof("event") == "delta":
                break
        call.cancel()
        await _is_freed(w, session)


async def test_a_client_that_goes_during_begin_leaves_no_attempt(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        store = w.gateway.life.store
        begin, begun, answer = store.begin, asyncio.Event(), asyncio.Event()

        async def slow(request: BeginRequest) -> Began | AlreadyCommitted:
            began = await begin(request)
            begun.set()
            await answer.wait()
            return began

        monkeypatch.setattr(store, "begin", slow)
        call = w.caller.call_step(step_request(session))
        await begun.wait()
        call.cancel()
        async with asyncio.timeout(LIMIT_SECONDS):
            while len(w.gateway.life.steps):
                await w.caller.get(session.id)  # each question is a call, which lets the gateway go on
            answer.set()
            while (await w.caller.get(session.id)).running_step_id:
                pass
        assert not w.worker.starts


async def test_a_deadline_frees_worker_and_ledger(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(hang_after=2)) as w:
        session = await w.caller.open()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.step(step_request(session), timeout=0.4)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await _is_freed(w, session)


async def test_a_step_without_deadline_ends_all_the_same(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(hang_after=2), step_timeout_seconds=0.3) as w:
        session = await w.caller.open()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in w.caller.call_step(step_request(session), timeout=None):
                pass
        assert reason(error) is Reason.DEADLINE_EXCEEDED
        await _is_freed(w, session)


async def _is_freed(w: World, session: pb.Session) -> None:
    async with asyncio.timeout(LIMIT_SECONDS):
        await w.worker.until(lambda: w.worker.cancels == [session.id])
        while (await w.caller.get(session.id)).running_step_id:
            pass  # each question is a call, which lets the gateway go on
    with w.rig.redis.client() as client:
        assert client.hlen(f"roost:{{{POOL}}}:reservations") == 0


async def test_a_full_queue_says_when_to_come_back(rig: Rig) -> None:
    publish_pool(rig.redis, admission={"queueLimit": 1, "queueTimeoutSeconds": 30})
    worker = await rig.worker(script=Script(hang_after=1, capacity_tokens=600))
    caller = rig.caller(await rig.gateway())
    sessions = [await caller.open() for _ in range(3)]
    first = rig.spawn(caller.step(step_request(sessions[0])))
    await worker.until(lambda: worker.starts)
    waiting = caller.call_step(step_request(sessions[1]))
    assert (await anext(aiter(waiting))).WhichOneof("event") == "queued"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await caller.step(step_request(sessions[2]))
    code, why, retry = fault(error.value)
    assert (code, why) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.QUEUE_FULL)
    assert retry
    worker.resume_output.set()
    assert (await first).committed is not None
    log = StepLog()
    async for response in waiting:
        log.take(response)
    assert log.committed is not None


async def test_waiting_without_room_ends_with_a_retry(rig: Rig) -> None:
    publish_pool(rig.redis, admission={"queueLimit": 5, "queueTimeoutSeconds": 0.3})
    worker = await rig.worker(script=Script(hang_after=1, capacity_tokens=600))
    caller = rig.caller(await rig.gateway())
    rig.spawn(caller.step(step_request(await caller.open())))
    await worker.until(lambda: worker.starts)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await caller.step(step_request(await caller.open()))
    code, why, retry = fault(error.value)
    assert (code, why) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.QUEUE_TIMEOUT)
    assert retry


async def test_no_worker_is_unavailable_with_a_retry(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grace, "WAIT_SECONDS", 0.0)  # the store of the tests has just started
    publish_pool(rig.redis, admission={"queueLimit": 5, "queueTimeoutSeconds": 0.2})
    caller = rig.caller(await rig.gateway())
    session = await caller.open()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await caller.step(step_request(session))
    code, why, retry = fault(error.value)
    assert (code, why) == (grpc.StatusCode.UNAVAILABLE, Reason.NO_WORKER)
    assert retry


async def test_a_worker_refusal_for_the_client_passes_through(redis_server: RedisServer) -> None:
    script = Script(refuse=Reason.INVALID_SCHEMA)
    async with world(redis_server, script) as w:
        session = await w.caller.open()
        request = step_request(session, format=pb.Format(json_schema='{"type": "object"}'))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.step(request)
        assert fault(error.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_SCHEMA)
        w.worker.script.refuse = None
        assert (await w.caller.step(step_request(session, "next"))).committed is not None
