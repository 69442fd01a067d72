"""An exception that nobody expected, at each stage of a step's way through gateway and worker.

The client has its answer at once, and not at its deadline; the step of another session that runs beside it is
committed; and nothing of the step stays behind. Gateway, worker, engine and Redis are real, the model is a script.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

import worker_harness
from gateway_driver import Caller, StepLog, fault, gateway, publish_pool, step_request
from redis_servers import RedisServer
from roost import fault_points, wire_steps
from roost.contract.reasons import Reason
from roost.fault_points import POINTS, InjectedError
from roost.grpc_errors import code_of
from roost.store import redis_store
from roost.store.keys import PoolKeys
from roost.v1 import session_service_pb2 as pb
from roost_gateway.fleet import grace
from roost_gateway.front.server import GatewayServer
from roost_gateway.step import attempt, output, prospects, relay, steps, worker_requests
from roost_worker.grammar import CompilePool
from roost_worker.render.detokenizer import TextStream
from roost_worker.render.renderer import Renderer
from roost_worker.render.vocabulary import Vocabulary
from roost_worker.seam.thread_engine import ThreadEngine
from roost_worker.server import generate, replies, requests, sessions
from worker_harness import SECRET, scripted_world, worker_config

pytestmark = pytest.mark.asyncio(loop_scope="module")

POOL = worker_harness.POOL
SEED, LONG_SEED = 1, 2
POISON = "poison"
TEXT = f"{POISON}!"
STOP = f"no {POISON}"
LONG_TEXT = "la " * 12
SCHEMA = pb.Format(json_schema=f'{{"type": "string", "description": "{POISON}"}}')


class Rig:
    """A gateway over one worker."""

    def __init__(self, server: GatewayServer, worker: worker_harness.World, redis: RedisServer, caller: Caller) -> None:
        self.server, self.worker, self.redis, self.caller = server, worker, redis, caller
        worker.script(SEED, TEXT)
        worker.script(LONG_SEED, LONG_TEXT)

    async def session(self) -> pb.Session:
        return await self.caller.open(pool=POOL)

    async def step(
        self,
        session: pb.Session,
        step_id: str,
        text: str = "hi",
        *,
        seed: int = SEED,
        stop: Sequence[str] = (),
        log: StepLog | None = None,
        **fields: Any,
    ) -> StepLog:
        sampling = pb.Sampling(seed=seed, max_tokens=100, stop=stop)
        return await self.caller.step(step_request(session, step_id, text, sampling=sampling, **fields), log)

    async def nothing_is_left(self) -> None:
        """Waits until neither gateway, worker nor ledger has anything of a step."""
        keys = PoolKeys(POOL)
        with self.redis.client() as client:
            async with asyncio.timeout(worker_harness.WAIT):
                while (  # noqa: ASYNC110
                    self.server.life.steps.live_attempts
                    or len(self.worker.server.shell.attempts)
                    or any(count for count, _ in self.server.life.steps.waiting())
                    or client.hlen(keys.reservations)
                    or client.hlen(keys.waiters)
                    or client.zcard(keys.lines)
                ):
                    await asyncio.sleep(0.01)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """One for all cases: what one of them breaks serves the next."""
    with shared_redis.client() as client:
        client.flushall()
    publish_pool(shared_redis, POOL)
    config = worker_config(shared_redis.url, tmp_path_factory.getbasetemp() / "roost-cache")
    async with (
        scripted_world(config, keep_seconds=0.2) as worker,
        gateway(shared_redis, pool_secrets={POOL: SECRET}) as server,
    ):
        caller = Caller(server.address)
        yield Rig(server, worker, shared_redis, caller)
        await caller.aclose()


@pytest.fixture(autouse=True)
def old_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the store of the tests had not just started, so that no worker is waited for."""
    monkeypatch.setattr(grace, "WAIT_SECONDS", 0.0)


async def refused(step: Any, reason: Reason) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await step
    assert fault(error.value)[:2] == (code_of(reason), reason), error.value.details()


OF_POINTS = {
    point: Reason.WORKER_FAILED if point.startswith("worker.") else Reason.INTERNAL
    for point in POINTS
    if point != "worker.finished"  # by then the gateway has all of the output
}


@pytest.mark.parametrize("point", POINTS)
async def test_an_exception_at_a_fault_point(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    neighbour, session = await rig.session(), await rig.session()
    for each in (neighbour, session):
        await rig.step(each, "first")
    if point == "gateway.history.sent":
        await rig.caller.stub.EvictSession(pb.EvictSessionRequest(session_id=session.id))
    monkeypatch.setattr(fault_points, "_DIRECTORY", str(tmp_path))
    (tmp_path / point).write_text("raise")
    step = rig.step(session, "under-fire")
    if point in OF_POINTS:
        await refused(step, OF_POINTS[point])
    else:
        assert (await step).committed is not None
    assert (tmp_path / f"{point}.reached").exists()
    await rig.nothing_is_left()
    beside = (await rig.step(neighbour, "second")).committed
    assert beside is not None
    assert beside.usage.reconstructed_tokens == 0, "the other session's KV is where it was"
    again = (await rig.step(session, "under-fire")).committed
    assert again is not None
    assert again.index == 1


def is_named(session_id: str, *arguments: Any) -> bool:
    """Whether a call names the step that is to fail: its session, its message, its stop string or its output."""
    return session_id in repr(arguments) or POISON in repr(arguments)


def is_its_text(_: str, *arguments: Any) -> bool:
    """Whether a call has a piece of that step's output, of which the other step's has no letter."""
    text = next(part for part in (getattr(argument, "text", argument) for argument in arguments) if type(part) is str)
    return not set(text).isdisjoint(POISON)


Broken = tuple[Any, str, Callable[..., bool], Reason | None]
BROKEN: dict[str, Broken] = {
    "worker: history": (sessions.SessionTable, "find", is_named, Reason.WORKER_FAILED),
    "worker: rendering": (Renderer, "step_pieces", is_named, Reason.INVALID_REQUEST),
    "worker: encoding": (Vocabulary, "encode", is_named, Reason.INVALID_REQUEST),
    "worker: sampling": (requests, "sampling_params", is_named, Reason.INVALID_REQUEST),
    "worker: schema": (CompilePool, "json_schema", is_named, Reason.INVALID_SCHEMA),
    "worker: constraint": (generate, "build_constraint", is_named, Reason.INVALID_SCHEMA),
    "worker: compiling": (generate, "check_grammar", is_named, Reason.INVALID_SCHEMA),
    "worker: submitting": (ThreadEngine, "send", is_named, Reason.WORKER_FAILED),
    "worker: decoding": (TextStream, "push", lambda _, stream, ids: STOP in stream._stop, Reason.INVALID_REQUEST),
    "worker: last decoding": (TextStream, "flush", lambda _, stream: STOP in stream._stop, Reason.INVALID_REQUEST),
    "worker: session log": (sessions.SessionTable, "finish", is_named, Reason.WORKER_FAILED),
    "worker: delta": (replies, "delta", is_its_text, Reason.WORKER_FAILED),
    "worker: parsing": (generate, "read_message", is_named, Reason.INVALID_REQUEST),
    "worker: result": (replies, "finished", is_named, Reason.INVALID_REQUEST),
    "worker: commit": (generate._Stream, "_handle", lambda of, stream, _: stream._attempt.session == of, None),
    "gateway: first worker": (prospects.Prospects, "first_worker", is_named, Reason.INTERNAL),
    "gateway: begin": (redis_store.RedisStore, "begin", is_named, Reason.INTERNAL),
    "gateway: attempt": (attempt.StepAttempt, "__init__", lambda of, _, call, *__: is_named(of, call), Reason.INTERNAL),
    "gateway: reserve": (redis_store.RedisStore, "reserve", is_named, Reason.INTERNAL),
    "gateway: start": (worker_requests, "start", lambda of, start: start.session_id == of, Reason.INTERNAL),
    "gateway: accept": (relay.Relay, "_accept", lambda of, it, *_: it._attempt.session_id == of, Reason.INTERNAL),
    "gateway: output": (output.StepOutput, "append", is_its_text, Reason.INTERNAL),
    "gateway: result": (output.StepOutput, "finish", is_named, Reason.INTERNAL),
    "gateway: event": (wire_steps, "event_to_wire", is_named, Reason.INTERNAL),
    "gateway: commit": (redis_store.RedisStore, "commit", is_named, Reason.INTERNAL),
    "gateway: figures": (steps, "_figures", lambda of, ended, _: ended.session_id == of, None),
}


@pytest.mark.parametrize("stage", BROKEN)
async def test_an_exception_at_a_stage(rig: Rig, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    owner, name, concerns, reason = BROKEN[stage]
    constrained: dict[str, Any] = {"format": SCHEMA} if reason is Reason.INVALID_SCHEMA else {}
    sound, loop, hit = getattr(owner, name), asyncio.get_running_loop(), asyncio.Event()
    neighbour, session = await rig.session(), await rig.session()

    def broken(*arguments: Any, **named: Any) -> Any:
        if concerns(session.id, *arguments, *named.values()):
            loop.call_soon_threadsafe(hit.set)
            raise InjectedError(stage)
        return sound(*arguments, **named)

    log = StepLog()
    beside = asyncio.create_task(rig.step(neighbour, "beside", log=log, seed=LONG_SEED))
    await log.has(1)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, broken)
        if name == "reserve":  # as for a session that has a log, but is cached nowhere
            patch.setattr(prospects.Prospects, "first_worker", lambda *_: "")
        step = rig.step(session, "under-fire", POISON, stop=[STOP], **constrained)
        if reason is None:
            assert (await step).committed is not None
        else:
            await refused(step, reason)
        async with asyncio.timeout(60):  # Commit reaches the worker after the client has its answer
            await hit.wait()
        await beside
        await rig.nothing_is_left()
    assert log.committed is not None
    assert log.text == LONG_TEXT
    assert (await rig.step(session, "under-fire", POISON, stop=[STOP], **constrained)).committed is not None
