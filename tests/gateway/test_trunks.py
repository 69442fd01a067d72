"""A gateway's steps share one trunk to each worker; what ends one of them leaves the others alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counting_worker import CountingWorker
from gateway_driver import LIMIT_SECONDS, POOL, Rig, StepLog, step_request
from leases import lease_of
from null_script import BASE_ID, Script
from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.grpc_errors import abort, details_of
from roost.store.memory import MemoryStore
from roost.v1 import worker_service_pb2 as wpb
from roost.v1.worker_service_pb2_grpc import WorkerServiceServicer, add_WorkerServiceServicer_to_server
from roost_gateway.fleet.worker_channel import WorkerChannel
from roost_gateway.fleet.worker_client import WorkerClients
from roost_gateway.routing.choice import WorkerState
from roost_gateway.step import worker_stream
from roost_gateway.step.attempt import WorkerFailureError
from roost_worker.server.trunk import Trunks, TrunkStream
from step_attempts import attempt_of, descriptor_of

TOKENS = 8
BOOT = "boot"
IDS = [BASE_ID + number for number in range(TOKENS)]


async def _worker(rig: Rig, **script: Any) -> CountingWorker:
    return await rig.run(CountingWorker(rig.redis.url, POOL, script=Script(tokens=TOKENS, **script)))


async def test_the_steps_of_all_sessions_share_one_trunk(rig: Rig) -> None:
    worker = await _worker(rig, hang_after=5)
    caller, logs = rig.caller(await rig.gateway()), [StepLog() for _ in range(4)]
    steps = [rig.spawn(caller.step(step_request(await caller.open()), log)) for log in logs]
    for log in logs:
        await log.has(5)
    worker.resume_output.set()
    await asyncio.gather(*steps)
    assert [log.ids for log in logs] == [IDS] * 4
    await worker.until(lambda: len(worker.commits) == 4)
    assert (worker.opened_trunks, worker.plain_calls) == (1, 0)


async def test_a_client_that_leaves_takes_no_other_step_along(rig: Rig) -> None:
    worker = await _worker(rig, hang_after=5)
    caller, leaving, staying = rig.caller(await rig.gateway()), StepLog(), StepLog()
    sessions = [await caller.open(), await caller.open()]
    call = rig.spawn(caller.step(step_request(sessions[0]), leaving))
    other = rig.spawn(caller.step(step_request(sessions[1]), staying))
    await leaving.has(5)
    await staying.has(5)
    call.cancel()
    async with asyncio.timeout(LIMIT_SECONDS):
        await worker.until(lambda: worker.cancels == [f"{sessions[0].id}"])
    worker.resume_output.set()
    await other
    assert staying.ids == IDS
    assert (worker.opened_trunks, worker.open_trunks) == (1, 1)


async def test_steps_on_a_trunk_that_is_retired_go_on_there_and_new_ones_open_another(rig: Rig) -> None:
    worker = await _worker(rig, hang_after=5)
    gateway = await rig.gateway()
    caller, old, new = rig.caller(gateway), StepLog(), StepLog()
    first = rig.spawn(caller.step(step_request(await caller.open()), old))
    await old.has(5)
    clients = gateway.life.fleet.clients
    clients.forget(clients.channel(worker.address))
    second = rig.spawn(caller.step(step_request(await caller.open()), new))
    await new.has(5)
    assert (worker.opened_trunks, worker.open_trunks) == (2, 2)
    worker.resume_output.set()
    await asyncio.gather(first, second)
    assert (old.ids, new.ids) == (IDS, IDS)
    assert len(worker.starts) == 2
    async with asyncio.timeout(LIMIT_SECONDS):
        await worker.until(lambda: worker.open_trunks == 1)


async def test_a_retired_trunk_without_steps_ends(rig: Rig) -> None:
    worker = await _worker(rig)
    gateway = await rig.gateway()
    caller = rig.caller(gateway)
    await caller.step(step_request(await caller.open()))
    clients = gateway.life.fleet.clients
    clients.forget(clients.channel(worker.address))
    async with asyncio.timeout(LIMIT_SECONDS):
        await worker.until(lambda: worker.opened_trunks == 1 and not worker.open_trunks)


class Echo(WorkerServiceServicer):
    """Sends the text of each Start back as a delta; `refuse` ends the stream."""

    def __init__(self) -> None:
        self._trunks = Trunks()

    async def Trunk(self, requests: Any, context: Any) -> None:  # noqa: N802
        await self._trunks.serve(context, self._echo)

    async def Generate(self, requests: Any, context: Any) -> None:  # noqa: N802
        await self._echo(requests, context)

    async def _echo(self, requests: Any, context: TrunkStream) -> None:
        async for request in requests:
            if request.start.system == "refuse":
                await abort(context, Refused(Reason.QUEUE_FULL, "as asked", retry_seconds=1.0))
            await context.write(wpb.GenerateResponse(delta=wpb.Delta(text=request.start.system)))


class Journal:
    """Implements GenerateReader."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.error: grpc.aio.AioRpcError | None = None
        self.over = asyncio.Event()

    def take(self, response: wpb.GenerateResponse) -> None:
        assert not self.over.is_set()
        self.texts.append(response.delta.text)

    def ended(self, error: grpc.aio.AioRpcError | None) -> None:
        assert not self.over.is_set()
        self.error = error
        self.over.set()


@asynccontextmanager
async def _serving(servicer: WorkerServiceServicer) -> AsyncIterator[WorkerChannel]:
    server = grpc.aio.server()
    add_WorkerServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    channel = WorkerChannel(address)
    try:
        yield channel
    finally:
        await channel.aclose()
        await server.stop(0)


class PlainEcho(Echo):
    """A worker that knows no trunks."""

    async def Trunk(self, requests: Any, context: Any) -> None:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


@pytest.mark.parametrize("servicer", [Echo, PlainEcho])
async def test_a_channel_that_is_closed_ends_its_streams(servicer: type[Echo]) -> None:
    async with _serving(servicer()) as channel:
        journal = Journal()
        call = await channel.generate("", [], journal, 0, BOOT)
        await call.write(wpb.GenerateRequest(start=wpb.Start(system="x")))
        await channel.aclose()
        async with asyncio.timeout(LIMIT_SECONDS):
            await journal.over.wait()
        assert journal.error is not None
        assert journal.error.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("servicer", [Echo, PlainEcho])
async def test_a_stream_that_is_left_hears_nothing_more(servicer: type[Echo]) -> None:
    async with _serving(servicer()) as channel:
        journal = Journal()
        call = await channel.generate("", [], journal, 0, BOOT)
        await call.write(wpb.GenerateRequest(start=wpb.Start(system="x")))
        call.leave()
        await channel.aclose()
    assert not journal.over.is_set()


async def test_a_trunk_that_is_closed_as_it_is_opened_fails_those_that_wait_for_it() -> None:
    async with _serving(Echo()) as channel:
        trunk = channel._trunk("")
        await trunk.aclose()
        with pytest.raises(grpc.aio.AioRpcError):
            async with asyncio.timeout(LIMIT_SECONDS):
                await trunk.known()
        assert not trunk.is_usable


async def test_a_step_that_is_too_long_for_its_worker_breaks_no_other() -> None:
    long = wpb.GenerateRequest(start=wpb.Start(system="x" * 5 * 1024 * 1024))  # the server takes 4 MiB
    short = wpb.GenerateRequest(start=wpb.Start(system="short"))
    async with _serving(Echo()) as channel:
        other, refused = Journal(), Journal()
        call = await channel.generate("", [], other, short.ByteSize(), BOOT)
        await (await channel.generate("", [], refused, long.ByteSize(), BOOT)).write(long)
        async with asyncio.timeout(LIMIT_SECONDS):
            await refused.over.wait()
            assert refused.error is not None
            assert refused.error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            await call.write(short)
            call.done_writing()
            await other.over.wait()
        assert (other.texts, other.error) == (["short"], None)


class Gap(Echo):
    """Leaves some of the output out, and does not end its streams."""

    async def _echo(self, requests: Any, context: TrunkStream) -> None:
        await context.write(wpb.GenerateResponse(delta=wpb.Delta(token_offset=9)))
        async for _ in requests:
            pass
        await asyncio.Event().wait()


async def test_nobody_waits_for_the_end_of_a_stream_that_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_stream, "PARTING_SECONDS", None)
    async with _serving(Gap()) as channel:
        clients, store = WorkerClients({}), MemoryStore()
        worker = WorkerState(lease_of("w", address=channel.address))
        attempt = attempt_of(PoolDocument(POOL), descriptor_of(f"{POOL}/s"))
        stream = worker_stream.WorkerStream(attempt, None, worker, clients, store, lambda *_: None)
        with pytest.raises(WorkerFailureError):
            await stream.finished()
        stream.leave()
        async with asyncio.timeout(LIMIT_SECONDS):
            await stream.cancel()
        await clients.aclose()


NUMBERS = st.integers(0, 4)
ACTIONS = st.lists(st.tuples(NUMBERS, st.sampled_from(["say", "say", "say", "refuse", "leave", "yield"])), max_size=40)


@settings(max_examples=25, deadline=None)
@given(actions=ACTIONS)
def test_each_stream_gets_its_own_messages_in_order_and_its_own_end(actions: list[tuple[int, str]]) -> None:
    asyncio.run(_play(actions))


async def _play(actions: list[tuple[int, str]]) -> None:
    async with _serving(Echo()) as channel:
        await _play_on(channel, actions)


async def _play_on(channel: WorkerChannel, actions: list[tuple[int, str]]) -> None:
    journals = [Journal() for _ in range(5)]
    calls = [await channel.generate("", [], journal, 0, BOOT) for journal in journals]
    said: list[list[str]] = [[] for _ in calls]
    last: list[str] = ["" for _ in calls]
    for number, action in actions:
        call = calls[number]
        if action == "yield":
            await asyncio.sleep(0)
        elif last[number]:
            continue
        elif action == "leave":
            call.leave()
            last[number] = "leave"
        else:
            text = f"{number}: {len(said[number])}" if action == "say" else "refuse"
            assert await call.write(wpb.GenerateRequest(start=wpb.Start(system=text)))
            if action == "refuse":
                last[number] = "refuse"
            else:
                said[number].append(text)
    for call in calls:
        call.done_writing()
    for number, journal in enumerate(journals):
        if last[number] == "leave":
            assert journal.texts == said[number][: len(journal.texts)]
            assert not journal.over.is_set()
            continue
        async with asyncio.timeout(LIMIT_SECONDS):
            await journal.over.wait()
        assert journal.texts == said[number]
        if last[number] == "refuse":
            assert journal.error is not None
            details = details_of(journal.error)
            assert (journal.error.code(), details.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
            assert (journal.error.details(), details.retry_seconds) == ("as asked", 1.0)
        else:
            assert journal.error is None
