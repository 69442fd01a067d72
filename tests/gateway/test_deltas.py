"""How often a step's output comes to its client (`StepRequest.deltas`), over null workers and over a real one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

import worker_harness
from detached_driver import HTTP, create
from detached_driver import stream as detached_stream
from gateway_driver import LIMIT_SECONDS, Caller, Rig, StepLog, gateway, publish_pool, reason, step_request, world
from http_client import ask
from null_script import BASE_ID, Script, token_text
from null_worker import NullWorker
from redis_servers import RedisServer
from roost.contract.events import TextPart
from roost.contract.reasons import Reason
from roost.v1 import session_service_pb2 as pb
from roost_gateway.fleet import grace
from roost_gateway.front.server import GatewayServer
from worker_harness import SECRET, World, scripted_world, worker_config

TOKENS = 12
IDS = [BASE_ID + number for number in range(TOKENS)]
TEXT = "".join(map(token_text, IDS))
MODES = [pb.DELTAS_NONE, pb.DELTAS_INTERVAL, pb.DELTAS_EACH]
AT_THE_END = ["started", "delta", "committed"]
BREAKS = -1
"""In a script of a real worker: the step fails there."""


@pytest.fixture(params=MODES, ids=lambda mode: pb.Deltas.Name(mode).removeprefix("DELTAS_").lower())
def mode(request: pytest.FixtureRequest) -> "pb.Deltas.ValueType":
    number: pb.Deltas.ValueType = request.param
    return number


def _is_whole(log: StepLog) -> None:
    assert (log.ids, log.text, log.restarts) == (IDS, TEXT, 0)
    assert log.parts.after(0) == (TextPart(TEXT),)
    assert log.committed is not None
    assert log.committed.output_tokens == TOKENS


async def _has_written(worker: NullWorker, session: pb.Session, tokens: int) -> None:
    await worker.until(lambda: session.id in worker.attempts and len(worker.attempts[session.id].ids) == tokens)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (pb.DELTAS_NONE, pb.DELTAS_NONE),
        (pb.DELTAS_INTERVAL, pb.DELTAS_INTERVAL),
        (pb.DELTAS_EACH, pb.DELTAS_EACH),
        (None, pb.DELTAS_INTERVAL),  # an older client
        (99, pb.DELTAS_INTERVAL),  # a newer one
    ],
)
async def test_the_worker_is_asked_for_the_clients_pace(
    redis_server: RedisServer, asked: int | None, sent: int
) -> None:
    async with world(redis_server, Script(tokens=TOKENS, break_after=5)) as w:
        request = step_request(await w.caller.open())
        if asked is not None:
            request.MergeFromString(bytes([8 << 3, asked]))  # Python's protobuf takes no unknown number
        _is_whole(await w.caller.step(request))
        assert [start.deltas for start in w.worker.starts] == [sent]
        assert [resume.deltas for resume in w.worker.resumes] == [sent]


async def test_without_deltas_the_output_comes_once_at_the_end(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(tokens=TOKENS, hang_after=5)) as w:
        session, log = await w.caller.open(), StepLog()
        running = w.rig.spawn(w.caller.step(step_request(session, deltas=pb.DELTAS_NONE), log))
        await _has_written(w.worker, session, 5)
        w.worker.resume_output.set()
        await running
        _is_whole(log)
        assert log.events == AT_THE_END
        again = await w.caller.step(step_request(session, deltas=pb.DELTAS_NONE))
        _is_whole(again)
        assert again.events == AT_THE_END[1:], "a committed step is replayed"


async def test_output_that_a_worker_forgot_is_replayed_at_every_pace(rig: Rig, mode: "pb.Deltas.ValueType") -> None:
    """The gateway has five tokens, whatever its client has."""
    script = {"tokens": TOKENS, "break_after": 5, "forget_orphans": True}
    workers = [await rig.worker(f"null-{number}", Script(**script)) for number in (1, 2)]
    caller = rig.caller(await rig.gateway())
    log = await caller.step(step_request(await caller.open(), deltas=mode))
    _is_whole(log)
    starts = [start for worker in workers for start in worker.starts]
    (replay,) = [start.replay for start in starts if start.HasField("replay")]
    assert (replay.tokens, list(replay.output_token_ids)) == (5, IDS[:5])
    assert {start.deltas for start in starts} == {mode}
    if mode == pb.DELTAS_NONE:
        assert [event for event in log.events if event != "started"] == ["delta", "committed"]


async def test_a_dead_gateways_step_goes_on_at_every_pace(
    rig: Rig, tmp_path: Path, mode: "pb.Deltas.ValueType"
) -> None:
    worker = await rig.worker(script=Script(tokens=TOKENS, hang_after=5))
    child, other = await rig.process(tmp_path), await rig.gateway()
    first, second = rig.caller(child), rig.caller(other)
    session, log = await first.open(), StepLog()
    running = rig.spawn(first.step(step_request(session, deltas=mode), log))
    await _has_written(worker, session, 5)
    child.kill()
    with pytest.raises(grpc.aio.AioRpcError):
        await running
    assert mode != pb.DELTAS_NONE or not log.ids
    worker.resume_output.set()
    await second.step(step_request(session, deltas=mode, received=log.cursor()), log)
    _is_whole(log)
    assert (len(worker.starts), len(worker.resumes)) == (1, 1)


async def test_output_that_no_client_has_is_generated_again_without_a_word(rig: Rig) -> None:
    worker = await rig.worker(script=Script(tokens=TOKENS, hang_after=5))
    first, second = rig.caller(await rig.gateway()), rig.caller(await rig.gateway())
    session, log = await first.open(), StepLog()
    running = rig.spawn(first.step(step_request(session, deltas=pb.DELTAS_NONE), log))
    await _has_written(worker, session, 5)
    worker.script.forget_orphans, worker.script.hang_after = True, None
    again = await second.step(step_request(session, deltas=pb.DELTAS_NONE, received=log.cursor()))
    _is_whole(again)
    assert again.events == AT_THE_END
    assert [start.sampling.seed for start in worker.starts] == [again.committed.seed] * 2  # type: ignore[union-attr]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await running
    assert reason(error) is Reason.ATTEMPT_FENCED


async def test_a_retry_may_ask_for_another_pace(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(tokens=TOKENS, hang_after=5)) as w:
        other = w.rig.caller(await w.rig.gateway())
        session, log = await w.caller.open(), StepLog()
        running = w.rig.spawn(w.caller.step(step_request(session, deltas=pb.DELTAS_EACH), log))
        await log.has(5)
        again = log.copy()
        retry = w.rig.spawn(other.step(step_request(session, deltas=pb.DELTAS_NONE, received=log.cursor()), again))
        await w.worker.until(lambda: w.worker.resumes)
        w.worker.resume_output.set()
        await retry
        _is_whole(again)
        assert again.events[len(log.events) :] == AT_THE_END
        with pytest.raises(grpc.aio.AioRpcError):
            await running


@pytest.mark.parametrize(("is_streamed", "sent"), [(False, pb.DELTAS_NONE), (True, pb.DELTAS_INTERVAL)])
async def test_over_http_only_a_stream_asks_for_deltas(redis_server: RedisServer, is_streamed: bool, sent: int) -> None:
    async with world(redis_server, **HTTP) as w:
        body = {"model": "null", "messages": [{"role": "user", "content": "hello"}], "stream": is_streamed}
        answer = await ask(w.gateway.http_address, "POST", "/v1/chat/completions", body)
        assert answer.status == 200
        if is_streamed:
            async with detached_stream(w.gateway):
                pass
        else:
            assert (await create(w.gateway)).status == 200
        await w.worker.until(lambda: len(w.worker.starts) == 2)
        assert [start.deltas for start in w.worker.starts] == [sent, sent], "also of what runs in the background"


OUTPUT = "What a real worker writes, token by token. 🦉"


class Real:
    """A gateway over a real worker whose model is a script."""

    def __init__(self, server: GatewayServer, caller: Caller, worker: World) -> None:
        self._server, self._caller, self.worker = server, caller, worker

    async def step(self, mode: "pb.Deltas.ValueType") -> StepLog:
        session = await self._caller.open(pool=worker_harness.POOL)
        sampling = pb.Sampling(seed=1, max_tokens=128)
        return await self._caller.step(step_request(session, sampling=sampling, deltas=mode))

    async def has_workers(self, count: int) -> None:
        """Waits until the gateway knows so many workers."""
        workers = self._server.life.fleet.workers
        async with asyncio.timeout(LIMIT_SECONDS):
            while len(workers.states(worker_harness.POOL)) < count:
                await workers.read(worker_harness.POOL)


@pytest.fixture
async def real(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Real]:
    monkeypatch.setattr(grace, "WAIT_SECONDS", 0.0)
    pool = worker_harness.POOL
    publish_pool(redis_server, pool, model={"name": "m", "contextTokens": 256})
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(scripted_world(worker_config(redis_server.url, tmp_path)))
        server = await stack.enter_async_context(gateway(redis_server, pool_secrets={pool: SECRET}))
        caller = Caller(server.address)
        stack.push_async_callback(caller.aclose)
        yield Real(server, caller, worker)


async def test_every_pace_gives_the_same_step(real: Real) -> None:
    ids = real.worker.script(1, OUTPUT)
    logs = [await real.step(mode) for mode in MODES]
    assert [(log.ids, log.text, log.parts.after(0)) for log in logs] == [(ids, OUTPUT, (TextPart(OUTPUT),))] * 3
    (output,) = {log.committed.output.SerializeToString() for log in logs if log.committed is not None}
    assert pb.Message.FromString(output).content == OUTPUT
    assert logs[0].events == AT_THE_END


async def test_another_worker_goes_on_at_every_pace(
    real: Real, redis_server: RedisServer, tmp_path: Path, mode: "pb.Deltas.ValueType"
) -> None:
    """What the first worker had not sent yet is generated again."""
    ids = real.worker.script(1, OUTPUT)
    real.worker.scripts[1] = [*ids[:5], BREAKS]
    real.worker.gate.let(5)
    running = asyncio.create_task(real.step(mode))
    await real.worker.gate.reached()
    async with scripted_world(worker_config(redis_server.url, tmp_path)) as other:
        other.script(1, OUTPUT)
        await real.has_workers(2)
        real.worker.gate.open()
        log = await running
    assert (log.ids, log.text, log.restarts) == (ids, OUTPUT, 0)
    assert log.committed is not None
    assert log.committed.failovers == 1
    assert log.committed.output.content == OUTPUT
