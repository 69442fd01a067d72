"""A worker checks a new session before it is opened; without its verdict the session opens unchecked."""

import json

import grpc
import pytest

from gateway_driver import (
    LIMIT_SECONDS,
    POOL,
    Caller,
    Rig,
    details_of,
    publish_pool,
    reason,
    step_request,
    violations,
    world,
)
from null_worker import NullWorker
from redis_servers import RedisServer
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.keys import PoolKeys
from roost.v1 import session_service_pb2 as pb
from roost_gateway.core import gateway, opening

GREP, READ = pb.Tool(name="grep", parameters_json="{}"), pb.Tool(name="fs.read", parameters_json="true")
FIELD = ("tools[0].parameters_json", "not a type: foo")
NO_SCHEMA = Refused(Reason.INVALID_SCHEMA, "not a type: foo", violations=[FIELD])


def verdicts(session: pb.Session) -> list[tuple[str, bool | None, str]]:
    return [
        (tool.name, tool.constrained if tool.HasField("constrained") else None, tool.keyword) for tool in session.tools
    ]


async def sessions(caller: Caller) -> list[pb.Session]:
    return list((await caller.stub.ListSessions(pb.ListSessionsRequest(pool=POOL))).sessions)


async def test_a_sessions_record_has_the_workers_verdict(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        w.worker.script.unconstrained = {"fs.read": "/properties/x/pattern"}
        opened = await w.caller.open(system="Be kind.", tools=[GREP, READ])
        assert verdicts(opened) == [("grep", True, ""), ("fs.read", False, "/properties/x/pattern")]
        assert verdicts(await w.caller.get(opened.id)) == verdicts(opened)
        assert [verdicts(session) for session in await sessions(w.caller)] == [[]]
        asked = w.worker.checks[0]
        assert (asked.system, list(asked.tools), asked.limit_tokens) == ("Be kind.", [GREP, READ], 2048)


async def test_a_session_has_one_date_in_its_check_its_record_and_its_steps(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(redis_server) as w:
        monkeypatch.setattr(gateway, "day_of", lambda _: "2031-05-04")
        opened = await w.caller.open(system="Be kind.")
        monkeypatch.setattr(gateway, "day_of", lambda _: "2031-05-05")
        await w.caller.step(step_request(opened))
        with redis_server.client() as client:
            stored = client.hget(PoolKeys(POOL).session(opened.id), "date")
        dates = [stored.decode(), *(asked.date for asked in (*w.worker.checks, *w.worker.starts))]
        assert dates == ["2031-05-04"] * 3


async def test_gateways_of_the_version_before_can_add_up_a_tools_texts(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        w.worker.script.unconstrained = {"fs.read": "/properties/x/pattern"}
        opened = await w.caller.open(tools=[GREP, READ])
        with redis_server.client() as client:
            stored = json.loads(client.hget(PoolKeys(POOL).session(opened.id), "tools"))
        assert [sum(len(text) for text in tool.values()) for tool in stored] == [4 + 2, 7 + 4 + 21]


async def test_a_session_that_no_step_could_use_is_not_opened(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        w.worker.script.refuse_check = NO_SCHEMA
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.open(tools=[GREP])
        assert (reason(error), violations(error.value)) == (Reason.INVALID_SCHEMA, dict([FIELD]))
        w.worker.script.refuse_check = Refused(Reason.STEP_TOO_LONG, "too long", metadata={"prompt_tokens": "3000"})
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.open(system="x")
        assert (reason(error), details_of(error.value).metadata) == (Reason.STEP_TOO_LONG, {"prompt_tokens": "3000"})
        assert await sessions(w.caller) == []


async def test_a_session_that_a_newer_worker_finds_invalid_is_not_opened(redis_server: RedisServer) -> None:
    """It gives a reason that this gateway does not know."""
    async with world(redis_server) as w:
        w.worker.script.refuse_check = Refused(Reason.MESSAGE_TOO_LARGE, "too odd")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.open(tools=[GREP])
        assert (reason(error), error.value.details()) == (Reason.INVALID_REQUEST, "too odd")
        assert await sessions(w.caller) == []


async def test_a_request_that_opened_a_session_returns_it_whatever_the_worker_says_now(
    redis_server: RedisServer,
) -> None:
    async with world(redis_server) as w:
        opened = await w.caller.open(request_id="r1", tools=[GREP])
        w.worker.script.refuse_check = NO_SCHEMA
        assert await w.caller.open(request_id="r1", tools=[GREP]) == opened
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.open(request_id="r2", tools=[GREP])
        assert reason(error) is Reason.INVALID_SCHEMA


@pytest.mark.parametrize(
    "why",
    [
        Reason.QUEUE_TIMEOUT,
        Reason.WORKER_DRAINING,
        Reason.NO_WORKER,
        Reason.MODEL_REVISION_MISMATCH,
        Reason.INVALID_API_KEY,
        Reason.INTERNAL,
    ],
)
async def test_a_worker_without_a_verdict_holds_up_no_session(redis_server: RedisServer, why: Reason) -> None:
    async with world(redis_server) as w:
        w.worker.script.refuse_check = Refused(why, "scripted refusal")
        assert verdicts(await w.caller.open(tools=[GREP])) == [("grep", None, "")]


async def test_a_session_opens_unchecked_while_no_worker_lives(rig: Rig) -> None:
    caller = rig.caller(await rig.gateway())
    assert verdicts(await caller.open(tools=[GREP])) == [("grep", None, "")]
    await (await rig.worker()).kill()
    await rig.gateway()  # reads the lease of the dead worker
    assert verdicts(await caller.open(tools=[GREP])) == [("grep", None, "")]


class Silent(NullWorker):
    async def CheckSession(self, request, context):  # noqa: N802
        self.checks.append(request)
        await self.resume_output.wait()


@pytest.mark.parametrize(
    ("most", "kept", "asked"),
    [(0.1, 1.0, 1), (1e6, LIMIT_SECONDS - 1, 1), (1e6, LIMIT_SECONDS + 1, 0)],
    ids=["the gateway's limit", "most of the client's time", "all of the client's time"],
)
async def test_a_silent_worker_holds_up_a_session_for_a_bounded_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, most: float, kept: float, asked: int
) -> None:
    monkeypatch.setattr(opening, "CHECK_SECONDS", most)
    monkeypatch.setattr(opening, "WRITE_SECONDS", kept)
    worker = await Silent(rig.redis.url, POOL).start()
    try:
        caller = rig.caller(await rig.gateway())
        assert verdicts(await caller.open(timeout=LIMIT_SECONDS, tools=[GREP])) == [("grep", None, "")]
        assert len(worker.checks) == asked
    finally:
        await worker.stop()


async def test_a_worker_of_the_version_before_holds_up_no_session(rig: Rig) -> None:
    class Older(NullWorker):
        async def CheckSession(self, request, context):  # noqa: N802
            self.checks.append(request)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    worker = await Older(rig.redis.url, POOL).start()
    try:
        caller = rig.caller(await rig.gateway())
        assert verdicts(await caller.open(tools=[GREP])) == [("grep", None, "")]
        assert len(worker.checks) == 1
    finally:
        await worker.stop()


async def test_a_worker_of_the_pools_revision_is_asked(rig: Rig) -> None:
    publish_pool(rig.redis, activeRevision="rev-2", sessions={"maxTokens": 512})
    old, new = await rig.worker("null-2", revision="rev-1"), await rig.worker("null-1", revision="rev-2")
    caller = rig.caller(await rig.gateway())
    for _ in range(4):
        await caller.open(tools=[GREP])
    assert (len(old.checks), len(new.checks)) == (0, 4)
    assert {(asked.model_revision, asked.limit_tokens) for asked in new.checks} == {("rev-2", 512)}


async def test_the_number_of_tools_is_the_workers_matter(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        names = [f"server-{number:03}.{'x' * 117}" for number in range(300)]
        opened = await w.caller.open(tools=[pb.Tool(name=name) for name in names])
        assert [tool.name for tool in opened.tools] == names
        assert len(w.worker.checks[0].tools) == 300


async def test_a_session_without_system_text_and_tools_is_not_checked(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        w.worker.script.refuse_check = NO_SCHEMA
        await w.caller.open()
        assert w.worker.checks == []
