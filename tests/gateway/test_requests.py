"""Sessions apart from their steps, and every kind of bad input: a clear error, and nothing lost."""

from collections.abc import Awaitable
from pathlib import Path

import grpc
import pytest

from gateway_driver import POOL, Caller, Rig, fault, publish_pool, reason, step_request, violations, world
from redis_servers import RedisServer
from roost.contract.api_keys import hash_api_key
from roost.contract.names import new_session_id
from roost.contract.reasons import Reason
from roost.v1 import session_service_pb2 as pb

Code = grpc.StatusCode


async def test_open_is_idempotent_by_its_request_id(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        first = await w.caller.open(request_id="r1", role="critic", labels={"a": "b"}, task="t")
        second = await w.caller.open(request_id="r1", role="critic", labels={"a": "b"}, task="t")
        assert first.id == second.id
        assert (first.pool, first.role, first.task, dict(first.labels)) == (POOL, "critic", "t", {"a": "b"})
        assert first.state == pb.SESSION_STATE_ACTIVE
        assert first.tier == pb.TIER_COLD


async def test_the_only_pool_and_its_first_role_need_no_name(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open(pool="")
        assert (session.pool, session.role) == (POOL, "coder")


async def test_sessions_are_listed_in_pages_by_filters(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        opened = [await w.caller.open(role=role) for role in ("coder", "critic", "coder", "critic", "coder")]
        await w.caller.step(step_request(opened[2]))
        await w.worker.until(lambda: w.worker.commits)
        await w.worker.publish()
        listed: list[str] = []
        token = ""
        while True:
            page = await w.caller.stub.ListSessions(
                pb.ListSessionsRequest(pool=POOL, page_size=2, page_token=token, role="coder")
            )
            listed += [session.id for session in page.sessions]
            token = page.next_page_token
            if not token:
                break
        assert listed == [opened[0].id, opened[2].id, opened[4].id]
        hot = await w.caller.stub.ListSessions(pb.ListSessionsRequest(pool=POOL, tier=pb.TIER_HOT))
        assert [(session.id, session.worker, session.cached_tokens) for session in hot.sessions] == [
            (opened[2].id, "null-1", 12)
        ]
        unknown = pb.ListSessionsRequest(pool=POOL, tier=99)  # type: ignore[arg-type]  # of a newer client
        assert not (await w.caller.stub.ListSessions(unknown)).sessions


async def test_steps_are_listed_with_what_made_them(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        form = pb.Format(tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE))
        sampling = pb.Sampling(temperature=0.5, seed=2**63, max_tokens=20, logit_bias={5: 1.5}, stop=["x"])
        for number in range(3):
            await w.caller.step(step_request(session, f"s{number}", sampling=sampling, format=form))
        first = await w.caller.stub.ListSteps(
            pb.ListStepsRequest(session_id=session.id, page_size=2, include_token_ids=True)
        )
        rest = await w.caller.stub.ListSteps(
            pb.ListStepsRequest(session_id=session.id, page_token=first.next_page_token)
        )
        steps = [*first.steps, *rest.steps]
        assert [(step.step_id, step.index) for step in steps] == [("s0", 0), ("s1", 1), ("s2", 2)]
        assert steps[1].sampling == sampling
        assert steps[1].format == form
        assert list(steps[1].prompt_token_ids) == [0, 1, 2, 3]
        assert len(steps[1].output_token_ids) == 8
        assert steps[0].messages[0].content == "hello"
        assert not rest.next_page_token


async def test_hold_reaches_the_worker_and_ends_with_the_next_step(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        log = await w.caller.step(step_request(session))
        assert log.committed is not None
        request = pb.HoldSessionRequest(
            session_id=session.id, tool="grep", expect_seconds=3, expected_head=log.committed.head
        )
        held = (await w.caller.stub.HoldSession(request)).session
        assert (held.hold.tool, held.hold.expect_seconds) == ("grep", 3)
        await w.worker.until(lambda: w.worker.holds)
        sent = w.worker.holds[0]
        assert (sent.session_id, sent.tool, sent.expect_seconds) == (session.id, "grep", 3)
        await w.caller.step(step_request(session, "next"))
        assert not (await w.caller.get(session.id)).HasField("hold")


async def test_eviction_and_deletion_reach_the_worker(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        await w.caller.step(step_request(session))
        await w.worker.until(lambda: w.worker.commits)
        evicted = await w.caller.stub.EvictSession(pb.EvictSessionRequest(session_id=session.id))
        assert evicted.evicted_tokens == 12
        assert evicted.session.tier == pb.TIER_COLD
        again = await w.caller.step(step_request(session, "two"))
        assert again.committed is not None
        assert again.committed.usage.reconstructed_tokens == 11
        await w.worker.until(lambda: len(w.worker.commits) == 2)
        await w.caller.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session.id))
        assert not w.worker.parked
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.get(session.id)
        assert reason(error) is Reason.SESSION_NOT_FOUND


async def test_a_closed_session_is_read_only(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        await w.caller.step(step_request(session))
        closed = (await w.caller.stub.CloseSession(pb.CloseSessionRequest(session_id=session.id))).session
        assert closed.state == pb.SESSION_STATE_CLOSED
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.step(step_request(session, "more"))
        assert fault(error.value)[:2] == (Code.FAILED_PRECONDITION, Reason.SESSION_CLOSED)
        steps = await w.caller.stub.ListSteps(pb.ListStepsRequest(session_id=session.id))
        assert len(steps.steps) == 1


BAD_OPENS: list[tuple[dict[str, object], Code, Reason, str]] = [
    ({"pool": "nope"}, Code.INVALID_ARGUMENT, Reason.INVALID_REQUEST, "pool"),
    ({"pool": "no/where"}, Code.NOT_FOUND, Reason.POOL_NOT_FOUND, ""),
    ({"role": "king"}, Code.NOT_FOUND, Reason.ROLE_NOT_FOUND, ""),
    ({"request_id": "x" * 65}, Code.INVALID_ARGUMENT, Reason.INVALID_REQUEST, "request_id"),
    ({"labels": {"a": "b" * 64}}, Code.INVALID_ARGUMENT, Reason.INVALID_REQUEST, "labels[a]"),
    ({"tools": [pb.Tool(name="a b")]}, Code.INVALID_ARGUMENT, Reason.INVALID_REQUEST, "tools[0].name"),
    (
        {"tools": [pb.Tool(name="a"), pb.Tool(name="a")]},
        Code.INVALID_ARGUMENT,
        Reason.INVALID_REQUEST,
        "tools[1].name",
    ),
    (
        {"tools": [pb.Tool(name="a", parameters_json="{")]},
        Code.INVALID_ARGUMENT,
        Reason.INVALID_SCHEMA,
        "tools[0].parameters_json",
    ),
    (
        {"tools": [pb.Tool(name="a", parameters_json="[" * 100_000)]},
        Code.INVALID_ARGUMENT,
        Reason.INVALID_SCHEMA,
        "tools[0].parameters_json",
    ),
    ({"parent_session_id": new_session_id(POOL)}, Code.NOT_FOUND, Reason.SESSION_NOT_FOUND, ""),
]


async def test_bad_opens_are_refused_by_field(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        for fields, code, why, field in BAD_OPENS:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await w.caller.open(**fields)
            assert fault(error.value)[:2] == (code, why), fields
            assert not field or field in violations(error.value)


USER = pb.Message(role=pb.MESSAGE_ROLE_USER, content="x")
CALL = pb.ToolCall(id="1", name="grep", arguments_json="{}")


def said(*calls: pb.ToolCall) -> pb.Message:
    return pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, tool_calls=calls)


BAD_STEPS: list[tuple[dict[str, object], str]] = [
    ({"step_id": ""}, "step_id"),
    ({"step_id": "a b"}, "step_id"),
    ({"messages": []}, "messages"),
    ({"messages": [pb.Message(content="x"), USER]}, "messages[0].role"),
    ({"messages": [USER, said()]}, "messages[1].role"),
    ({"messages": [pb.Message(role=pb.MESSAGE_ROLE_USER, tool_calls=[CALL])]}, "messages[0].tool_calls"),
    ({"messages": [said(pb.ToolCall(id="1")), USER]}, "messages[0].tool_calls[0]"),
    ({"messages": [said(CALL, pb.ToolCall(id="x" * 257, name="grep")), USER]}, "messages[0].tool_calls[1]"),
    ({"sampling": pb.Sampling(temperature=-1)}, "sampling.temperature"),
    ({"sampling": pb.Sampling(temperature=float("nan"))}, "sampling.temperature"),
    ({"sampling": pb.Sampling(top_p=0)}, "sampling.top_p"),
    ({"sampling": pb.Sampling(max_tokens=513)}, "sampling.max_tokens"),
    ({"sampling": pb.Sampling(max_tokens=0)}, "sampling.max_tokens"),
    ({"sampling": pb.Sampling(stop=[""])}, "sampling.stop"),
    ({"sampling": pb.Sampling(logit_bias={1: float("inf")})}, "sampling.logit_bias"),
    ({"format": pb.Format(tool_choice=pb.ToolChoice(name="x"))}, "format.tool_choice.name"),
    ({"expected_head": pb.Head(length=1, log_hash=b"short")}, "expected_head.log_hash"),
]


async def test_bad_steps_are_refused_by_field(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        for fields, field in BAD_STEPS:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await w.caller.step(step_request(session, **fields))
            assert fault(error.value)[:2] == (Code.INVALID_ARGUMENT, Reason.INVALID_REQUEST), fields
            assert field in violations(error.value)
        assert (await w.caller.step(step_request(session))).committed is not None


@pytest.mark.parametrize("schema", ["", "nonsense", "[1]", "[" * 100_000])
async def test_a_schema_that_is_none_is_told_as_such(redis_server: RedisServer, schema: str) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.step(step_request(session, format=pb.Format(json_schema=schema)))
        assert fault(error.value)[:2] == (Code.INVALID_ARGUMENT, Reason.INVALID_SCHEMA)
        assert "format.json_schema" in violations(error.value)
        assert not w.worker.starts


async def test_bytes_that_are_no_request_are_an_invalid_argument(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        for data in (b"\x0a\x02\xff\xfe", b"\xff\xff\xff"):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await w.caller.channel.unary_unary("/roost.v1.SessionService/GetSession")(data)
            assert fault(error.value)[:2] == (Code.INVALID_ARGUMENT, Reason.INVALID_REQUEST)
            assert "request" in violations(error.value)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in w.caller.channel.unary_stream("/roost.v1.SessionService/Step")(b"\x0a\x01\xff"):
                pass
        assert fault(error.value)[:2] == (Code.INVALID_ARGUMENT, Reason.INVALID_REQUEST)


async def test_large_messages_are_refused_and_hurt_nobody(redis_server: RedisServer) -> None:
    async with world(redis_server, max_message_bytes=1024 * 1024) as w:
        session = await w.caller.open()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.step(step_request(session, text="x" * 1_500_000))
        assert fault(error.value)[:2] == (Code.INVALID_ARGUMENT, Reason.MESSAGE_TOO_LARGE)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.step(step_request(session, text="x" * 100_000_000))
        assert error.value.code() is Code.RESOURCE_EXHAUSTED
        assert "larger than max" in (error.value.details() or "")
        assert (await w.caller.step(step_request(session))).committed is not None


async def test_heads_that_do_not_match_are_told_apart(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        session = await w.caller.open()
        log = await w.caller.step(step_request(session, "a"))
        assert log.committed is not None
        ahead = pb.Head(length=log.committed.head.length + 5, log_hash=b"x" * 16)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.step(step_request(session, "b", expected_head=ahead))
        assert fault(error.value)[:2] == (Code.DATA_LOSS, Reason.SESSION_ROLLED_BACK)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await w.caller.step(step_request(session, "b", expected_head=pb.Head()))
        assert fault(error.value)[:2] == (Code.FAILED_PRECONDITION, Reason.HEAD_MISMATCH)


async def test_limits_of_the_role_and_the_log_are_kept(rig: Rig) -> None:
    roles = [
        {"name": "once", "maxStepsPerSession": 1},
        {"name": "frugal", "sessionTokenBudget": 20},
        {"name": "short"},
    ]
    publish_pool(rig.redis, roles=roles, sessions={"maxTokens": 40})
    await rig.worker()
    caller = rig.caller(await rig.gateway())
    reasons = {"once": Reason.STEP_LIMIT_REACHED, "frugal": Reason.BUDGET_EXHAUSTED, "short": Reason.STEP_TOO_LONG}
    for role, why in reasons.items():
        session = await caller.open(role=role)
        assert (await caller.step(step_request(session, "s0", text=""))).committed is not None
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await _steps(caller, session, 10)
        assert reason(error) is why
        assert (await caller.get(session.id)).head.length <= 40


async def _steps(caller: Caller, session: pb.Session, count: int) -> None:
    for number in range(1, count):
        await caller.step(step_request(session, f"s{number}", text=""))


async def test_a_suspended_pool_says_so(rig: Rig) -> None:
    publish_pool(rig.redis, suspend=True)
    caller = rig.caller(await rig.gateway())
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await caller.open()
    assert fault(error.value)[:2] == (Code.FAILED_PRECONDITION, Reason.POOL_SUSPENDED)


async def test_unknown_sessions_and_foreign_names_are_not_found(redis_server: RedisServer) -> None:
    async with world(redis_server) as w:
        for name in ("", "nonsense", new_session_id(POOL), new_session_id("other/pool"), "a/b/../../c"):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await w.caller.get(name)
            assert fault(error.value)[:2] == (Code.NOT_FOUND, Reason.SESSION_NOT_FOUND)


async def test_tenants_neither_reach_nor_list_each_other(rig: Rig, tmp_path: Path) -> None:
    publish_pool(rig.redis, "test/other")
    keys = tmp_path / "keys.yaml"
    keys.write_text(
        f"keys:\n"
        f"- {{id: a, sha256: {hash_api_key('alpha')}, tenant: anna, pools: ['*']}}\n"
        f"- {{id: c, sha256: {hash_api_key('narrow')}, tenant: anna, pools: ['{POOL}']}}\n"
        f"- {{id: b, sha256: {hash_api_key('beta')}, tenant: bob, pools: ['{POOL}']}}\n"
    )
    server = await rig.gateway(api_keys_file=keys)
    anna, narrow, bob, nobody, wrong = (rig.caller(server, key) for key in ("alpha", "narrow", "beta", "", "gamma"))
    session, elsewhere = await anna.open(), await anna.open(pool="test/other")
    for stranger in (nobody, wrong):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stranger.get(session.id)
        assert fault(error.value)[:2] == (Code.UNAUTHENTICATED, Reason.INVALID_API_KEY)
    for call in _every_call(bob, session.id):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert fault(error.value)[:2] == (Code.NOT_FOUND, Reason.SESSION_NOT_FOUND)
    assert not (await bob.stub.ListSessions(pb.ListSessionsRequest(pool=POOL), metadata=bob.metadata)).sessions
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await bob.open(pool="test/other")
    assert fault(error.value)[:2] == (Code.PERMISSION_DENIED, Reason.POOL_NOT_ALLOWED)
    assert (await bob.open(pool="")).pool == POOL
    assert (await narrow.get(session.id)).id == (await anna.get(session.id)).id == session.id
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await narrow.get(elsewhere.id)
    assert reason(error) is Reason.SESSION_NOT_FOUND


def _every_call(caller: Caller, session_id: str) -> list[Awaitable[object]]:
    stub, metadata = caller.stub, caller.metadata
    return [
        caller.get(session_id),
        stub.ListSteps(pb.ListStepsRequest(session_id=session_id), metadata=metadata),
        stub.HoldSession(pb.HoldSessionRequest(session_id=session_id), metadata=metadata),
        stub.EvictSession(pb.EvictSessionRequest(session_id=session_id), metadata=metadata),
        stub.CloseSession(pb.CloseSessionRequest(session_id=session_id), metadata=metadata),
        stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id), metadata=metadata),
        caller.step(step_request(session_id)),
    ]
