"""A trunk carries the Generate streams of many attempts, and each behaves as a call of its own."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from redis_servers import RedisServer
from roost.grpc_errors import details_of
from roost.v1 import worker_service_pb2 as pb
from roost.v1.worker_service_pb2_grpc import WorkerServiceStub
from roost_worker.server import server as server_module
from roost_worker.server.server import WorkerServer
from trunk_streams import TrunkStub
from worker_harness import POOL, SECRET, WAIT, Ledger, Stream, World, attempt, reason, scripted_world, worker_config

SESSIONS = [f"{POOL}/0{number}hzzzzzzzzzzzzzzzzzzzzzzz" for number in range(3)]


@pytest.fixture
async def trunk(world: World) -> AsyncIterator[TrunkStub]:
    """The worker's streams are those of this trunk."""
    async with TrunkStub(world.server.address) as stub:
        world.stub = stub
        yield stub


def call(stub: WorkerServiceStub, secret: str = SECRET) -> "grpc.aio.StreamStreamCall":
    return stub.Trunk(metadata=(("roost-pool-secret", secret),), timeout=WAIT)


async def failure_of(call: "grpc.aio.StreamStreamCall") -> grpc.aio.AioRpcError:
    """Reads a call to its end, which must be an error."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call ended well")


async def test_the_steps_of_many_sessions_run_on_one_trunk(world: World, trunk: TrunkStub) -> None:
    texts = ["first", "second one", "3"]
    ledgers = [Ledger(session) for session in SESSIONS]
    for seed, text in enumerate(texts, start=1):
        world.script(seed, text)
    streams = [await world.begin(ledger, seed=seed) for seed, ledger in enumerate(ledgers, start=1)]
    for stream, text in zip(streams, texts, strict=True):
        await stream.until("finished")
        assert stream.out.text == text
    for ledger, stream in zip(ledgers, streams, strict=True):
        await world.commit(ledger, stream)
    assert not world.server.shell.attempts


async def _is_orphan(world: World, ledger: Ledger) -> None:
    """Waits until the session's attempt is one."""
    attempt = world.server.shell.attempts.of_session(ledger.session_id)
    while attempt.orphaned_at is None:  # noqa: ASYNC110  the worker has yet to read that it was left
        await asyncio.sleep(0)


async def test_a_stream_that_is_left_leaves_an_orphan_and_the_others_go_on(world: World, trunk: TrunkStub) -> None:
    world.script(1, "abcd")
    world.gate.let(2)
    ledger, other = Ledger(SESSIONS[0]), Ledger(SESSIONS[1])
    left = await world.begin(ledger)
    await left.until_tokens(2)
    staying = await world.begin(other)
    await staying.until("accepted")
    left.break_off()
    await _is_orphan(world, ledger)
    world.gate.open()
    await staying.until("finished")
    await world.commit(other, staying)
    resumed = await world.resume(ledger, 2)
    await resumed.until("finished")
    assert resumed.out.text == "cd"
    await world.commit(ledger, resumed)


async def test_a_trunk_that_breaks_leaves_all_of_its_attempts_as_orphans(world: World, trunk: TrunkStub) -> None:
    plain = WorkerServiceStub(grpc.aio.insecure_channel(world.server.address))
    world.script(1, "abcd")
    ledgers = [Ledger(session) for session in SESSIONS]
    world.gate.close()
    streams = [await world.begin(ledger) for ledger in ledgers]
    for stream in streams:
        await stream.until("accepted")
    await trunk.trunk.aclose()
    for stream in streams:
        assert (await stream.fail()).code() is grpc.StatusCode.UNAVAILABLE
    for ledger in ledgers:
        await _is_orphan(world, ledger)
    world.gate.open()
    world.stub = plain  # as of a gateway that knows no trunks
    for ledger in ledgers:
        resumed = await world.resume(ledger, 0)
        await resumed.until("finished")
        assert resumed.out.text == "abcd"
        await world.commit(ledger, resumed)


async def test_a_refused_stream_says_what_a_call_of_its_own_would(world: World, trunk: TrunkStub) -> None:
    refused = await (await world.begin(Ledger(), model_revision="other")).fail()
    assert (refused.code(), reason(refused)) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_REVISION_MISMATCH")
    assert details_of(refused).metadata["wanted"] == "other"
    world.script(1, "ok")
    await world.step(Ledger())


@pytest.mark.parametrize("secret", ["", "wrong"])
async def test_a_trunk_needs_the_pools_secret(world: World, secret: str) -> None:
    refused = await failure_of(call(world.stub, secret))
    assert (refused.code(), reason(refused)) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY")


async def test_a_worker_that_is_not_ready_refuses_the_trunk(redis_server: RedisServer, tmp_path) -> None:
    async def never(*arguments: object) -> None:
        raise AssertionError("no engine is needed")

    server = WorkerServer(worker_config(redis_server.url, tmp_path), never)
    await server._listen()
    async with grpc.aio.insecure_channel(server.address) as channel:
        refused = await failure_of(call(WorkerServiceStub(channel)))
    await server.stop()
    assert (refused.code(), reason(refused)) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")


OPENING = {"opening": pb.StreamOpening()}
REQUEST = {"message": pb.GenerateRequest(start=pb.Start(attempt=attempt(1)))}


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([pb.RequestFrame(stream=1, **REQUEST)], "stream 1 is not open"),
        ([pb.RequestFrame(stream=1, **OPENING), pb.RequestFrame(stream=1, **OPENING)], "stream 1 is not new"),
        ([pb.RequestFrame(stream=7, **OPENING), pb.RequestFrame(stream=3, **OPENING)], "count streams upwards from 7"),
    ],
)
async def test_frames_out_of_order_end_the_trunk(world: World, frames: list[pb.RequestFrame], message: str) -> None:
    broken = call(world.stub)
    await broken.write(pb.TrunkRequest(frames=frames))
    refused = await failure_of(broken)
    assert (refused.code(), reason(refused)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert message in refused.details()


async def test_frames_of_a_stream_that_has_ended_are_passed_over(world: World) -> None:
    trunk = call(world.stub)
    frames = [pb.RequestFrame(stream=1, **OPENING), pb.RequestFrame(stream=1, half_close=pb.HalfClose())]
    await trunk.write(pb.TrunkRequest(frames=frames))
    responses = [await trunk.read(), await trunk.read()]
    assert not responses[0].frames
    assert responses[1].frames[0].end.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    late = [pb.RequestFrame(stream=1, **REQUEST), pb.RequestFrame(stream=1, leave=pb.Leave())]
    await trunk.write(pb.TrunkRequest(frames=late))
    await trunk.done_writing()
    assert await trunk.read() is grpc.aio.EOF
    assert await trunk.code() is grpc.StatusCode.OK


async def test_each_stream_continues_its_own_trace(redis_server: RedisServer, tmp_path) -> None:
    spans, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    traces = [f"{number:032x}" for number in (11, 12)]
    async with scripted_world(worker_config(redis_server.url, tmp_path), tracer_provider=provider) as world:
        world.script(1, "ok")
        async with TrunkStub(world.server.address) as world.stub:
            for session, trace in zip(SESSIONS, traces, strict=False):
                await world.step(Ledger(session), metadata=[("traceparent", f"00-{trace}-b7ad6b7169203331-01")])
    assert [f"{span.context.trace_id:032x}" for span in spans.get_finished_spans()] == traces


async def test_a_trunk_without_steps_does_not_hold_up_a_worker_that_stops(
    redis_server: RedisServer, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STOP_SECONDS", WAIT)  # after which what still runs is cancelled
    async with scripted_world(worker_config(redis_server.url, tmp_path)) as world:
        trunk = call(world.stub)
        await trunk.read()
        await world.server.stop()
        assert await trunk.read() is grpc.aio.EOF


async def test_a_worker_that_stops_finishes_the_streams_of_its_trunks_and_opens_none(
    redis_server: RedisServer, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STOP_SECONDS", WAIT)
    async with scripted_world(worker_config(redis_server.url, tmp_path)) as world:
        world.script(1, "ok")
        async with TrunkStub(world.server.address) as world.stub:
            ledger = Ledger(SESSIONS[0])
            world.gate.close()
            stream = await world.begin(ledger)
            await stream.until("accepted")
            stopping = asyncio.create_task(world.server.stop())
            refused = await _refused(world)
            assert refused.code() is grpc.StatusCode.UNAVAILABLE
            world.gate.open()
            await stream.until("finished")
            await world.commit(ledger, stream)
            await stopping


async def _refused(world: World) -> grpc.aio.AioRpcError:
    """What a step is refused with, begun until one is."""
    ledger = Ledger(SESSIONS[1])
    while True:
        stream: Stream = await world.begin(ledger)
        try:
            await stream.until("accepted")
        except grpc.aio.AioRpcError as refused:
            return refused
        stream.break_off()
