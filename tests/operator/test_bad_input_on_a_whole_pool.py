"""Bad input, tenants, cancels and deadlines on one whole pool: a clear error of its own class, and nothing lost.

What a client can do wrong is done to real processes through the SDK: a gateway with API keys, a worker, Redis. What
only an operator can do wrong (models, ports, Redis) is tested where it is read.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from fault_stack import log_of, until
from hostile_requests import drawn, requests
from request_sender import SLOTS, Sender
from roost import (
    Client,
    Delta,
    Event,
    Format,
    JsonSchema,
    Sampling,
    Session,
    Step,
    Tool,
    ToolChoice,
    ToolChoiceMode,
    errors,
)
from roost.contract.names import new_session_id
from roost.v1 import session_service_pb2 as pb
from whole_pool import CONTEXT, ENDLESS, POOL_NAME, SHORT, Whole, begin, goes_on, whole_pool

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG_PROMPT = "The same words, again and again. " * 10


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    async with whole_pool(tmp_path_factory.mktemp("whole")) as pool:
        yield pool


def deep(levels: int) -> dict[str, Any]:
    """A schema within a schema within a schema."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


BAD_OPENS: dict[str, tuple[dict[str, Any], type[errors.RoostError], str]] = {
    "a pool's name that is none": ({"pool": "nope"}, errors.InvalidRequestError, "namespace/name"),
    "an unknown pool": ({"pool": "default/nope"}, errors.PoolNotFoundError, "default/nope"),
    "an unknown role": ({"role": "king"}, errors.RoleNotFoundError, "agent, once, frugal"),
    "a tool's schema that is none": (
        {"tools": [Tool("grep", parameters="[1]")]},
        errors.InvalidRequestError,
        r"tools\[0\].parameters_json",
    ),
    "a tool that is too deep": (
        {"tools": [Tool("grep"), Tool("deep", parameters=deep(300))]},
        errors.InvalidSchemaError,
        r"tool 'deep': parameters_json: .*use \$defs",
    ),
    "a tool of no known type": (
        {"tools": [Tool("grep", parameters={"type": "object", "properties": {"a": {"type": "nonsense"}}})]},
        errors.InvalidSchemaError,
        "tool 'grep': .*nonsense",
    ),
    "system text that is longer than the context": (
        {"system": "x" * 2 * CONTEXT},
        errors.StepTooLongError,
        f"no room in the {CONTEXT} tokens",
    ),
    "an unknown parent": ({"parent": new_session_id(POOL_NAME)}, errors.SessionNotFoundError, "parent_session_id"),
}


@pytest.mark.parametrize("case", BAD_OPENS)
async def test_a_session_that_cannot_be_opened(whole: Whole, case: str) -> None:
    fields, error, fix = BAD_OPENS[case]
    with pytest.raises(error, match=fix):
        await whole.bob.open(**fields)


async def test_a_pool_that_the_key_does_not_reach(whole: Whole) -> None:
    async with await Client.connect(whole.stack.targets, api_key="carls-key") as carl:
        with pytest.raises(errors.PoolNotAllowedError, match="name one of its own"):
            await carl.open(pool=POOL_NAME)
    with pytest.raises(errors.AuthenticationError, match="ask the pool's owner"):
        async with await Client.connect(whole.stack.targets, api_key="guessed") as stranger:
            await stranger.open(pool=POOL_NAME)
    with pytest.raises(errors.AuthenticationError, match="authorization: Bearer KEY"):
        async with await Client.connect(whole.stack.targets) as nobody:
            await nobody.open(pool=POOL_NAME)


def explosive(clauses: int) -> dict[str, Any]:
    """Every clause multiplies the ways to satisfy all of them."""
    choice = [{"type": "object", "properties": {f"p{i}": {"const": i}}, "required": [f"p{i}"]} for i in range(clauses)]
    return {"allOf": [{"anyOf": choice} for _ in range(clauses)]}


BAD_STEPS: dict[str, tuple[str, Format | None, Sampling, type[errors.RoostError], str]] = {
    "longer than the context": ("x" * 2 * CONTEXT, None, SHORT, errors.StepTooLongError, "open a new session"),
    "larger than the gateway takes": ("x" * 9_000_000, None, SHORT, errors.MessageTooLargeError, "send less"),
    "100 MB": ("x" * 100_000_000, None, SHORT, errors.MessageTooLargeError, "send less"),
    "more output than the role allows": (
        "Hi.", None, Sampling(max_tokens=7601), errors.InvalidRequestError, "role 'agent' allows: 7600",
    ),
    "a temperature that is none": (
        "Hi.", None, Sampling(temperature=-1.0), errors.InvalidRequestError, "sampling.temperature.*between",
    ),
    "a schema that is no JSON": ("Hi.", JsonSchema("{"), SHORT, errors.InvalidSchemaError, "json_schema: is not JSON"),
    "a schema of no known type": (
        "Hi.", JsonSchema({"type": "nonsense"}), SHORT, errors.InvalidSchemaError, "nonsense",
    ),
    "a schema that is too deep": ("Hi.", JsonSchema(deep(40)), SHORT, errors.InvalidSchemaError, r"use \$defs"),
    "a schema that is too long": (
        "Hi.", JsonSchema({"enum": ["x" * 70_000]}), SHORT, errors.InvalidSchemaError, "use a smaller schema",
    ),
    "an explosive schema": (
        "Hi.",
        JsonSchema(explosive(12)),
        SHORT,
        errors.InvalidSchemaError,
        "schema too large",
    ),
    "a tool call without tools": (
        "Hi.", ToolChoice(ToolChoiceMode.REQUIRED), SHORT, errors.InvalidRequestError, "the session has no tools",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_STEPS)
async def test_a_step_that_cannot_be_served(whole: Whole, case: str) -> None:
    text, form, sampling, error, fix = BAD_STEPS[case]
    session = await begin(whole.anna)
    with pytest.raises(error, match=fix) as raised:
        await session.run(text, sampling=sampling, format=form)
    assert type(raised.value) is error
    assert len(re.findall(fix, str(raised.value))) == 1
    await goes_on(whole, session)


async def test_text_that_is_not_utf8(whole: Whole) -> None:
    session = await begin(whole.anna)
    valid = pb.StepRequest(
        session_id=session.id,
        step_id="s",
        messages=[pb.Message(role=pb.MESSAGE_ROLE_USER, content="caf\u00e9")],
    ).SerializeToString()
    call = whole.raw.unary_stream("/roost.v1.SessionService/Step")
    with pytest.raises(grpc.aio.AioRpcError, match="not UTF-8") as raised:
        async for _ in call(
            valid.replace("\u00e9".encode(), b"\xff\xfe"), metadata=[("authorization", "Bearer annas-key")]
        ):
            pass
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(ValueError, match="surrogates"):
        await session.run("\ud800", sampling=SHORT)
    await goes_on(whole, session)


async def test_a_closed_session(whole: Whole) -> None:
    session = await begin(whole.anna)
    await session.close()
    with pytest.raises(errors.SessionClosedError, match="open another"):
        await session.run("More.", sampling=SHORT)
    assert len(await log_of(session)) == 1


async def test_limits_of_a_role(whole: Whole) -> None:
    once, frugal = await begin(whole.anna, role="once"), await begin(whole.anna, role="frugal")
    with pytest.raises(errors.StepLimitReachedError, match="open another"):
        await once.run("More.", sampling=SHORT)
    with pytest.raises(errors.BudgetExhaustedError, match="open another"):
        await talk(frugal, 10)
    for session in (once, frugal):
        log = await log_of(session)
        assert (await session.info()).head == log[-1].head
    await whole.everything_is_free()


async def talk(session: Session, steps: int) -> None:
    for _ in range(steps):
        await session.run("x" * 100, sampling=SHORT)


async def test_two_different_steps_on_one_session(whole: Whole) -> None:
    session = await begin(whole.anna)
    async with session.step("First.", sampling=ENDLESS) as first:
        async for event in first:
            if isinstance(event, Delta):
                break
        with pytest.raises(errors.AnotherStepRunningError, match="another step") as raised:
            await session.run("Second.", sampling=SHORT)
        assert raised.value.retry_after
    await goes_on(whole, session)


async def test_a_step_id_and_a_head_that_do_not_fit(whole: Whole) -> None:
    session = await begin(whole.anna)
    behind = whole.anna.session(session.id)
    behind.head = session.head
    taken = await session.run("Second.", step_id="second", sampling=SHORT)
    with pytest.raises(errors.StepIdReusedError, match="take a new one"):
        await session.run("Another.", step_id="second", sampling=SHORT)
    with pytest.raises(errors.HeadMismatchError, match="ListSteps"):
        await behind.run("Third.", sampling=SHORT)
    again = await session.run("Second.", step_id="second", sampling=SHORT)
    assert again.committed.replayed
    assert again.token_ids == taken.token_ids
    await goes_on(whole, session, steps=2)


async def test_a_cancel_frees_blocks_and_reservation(whole: Whole) -> None:
    session = await begin(whole.anna)
    async with whole.cut_short():
        async with session.step("Tell me all.", sampling=ENDLESS) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
            assert await whole.ledger()
            assert (await whole.state()).blocks.in_use > 0
        await goes_on(whole, session)


async def test_a_deadline_frees_blocks_and_reservation(whole: Whole) -> None:
    session = await begin(whole.anna)
    seen: list[Event] = []
    async with whole.cut_short():
        with pytest.raises(errors.DeadlineExceededError, match="deadline passed") as raised:
            await collect(session.step("Tell me all.", step_id="late", sampling=ENDLESS, deadline=1.5), seen)
        await goes_on(whole, session)
    assert raised.value.step_id == "late"
    assert any(isinstance(event, Delta) for event in seen)


async def collect(step: Step, seen: list[Event]) -> None:
    async for event in step:
        seen.append(event)  # noqa: PERF401  what came before an error is wanted


async def test_a_waiting_step_that_is_cancelled_leaves_the_queue(whole: Whole) -> None:
    sessions = await asyncio.gather(*(begin(whole.anna) for _ in range(10)))
    tasks = [asyncio.create_task(session.run("Tell me all.", sampling=ENDLESS)) for session in sessions]

    async def crowded() -> bool:
        return len(await whole.ledger()) == len(tasks)

    await until(crowded, "every step to have a reservation or to wait")
    for task in tasks:
        task.cancel()
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks, return_exceptions=True))
    await goes_on(whole, sessions[-1])


async def test_another_tenants_session_is_not_there(whole: Whole) -> None:
    session = await begin(whole.anna)
    stolen = whole.bob.session(session.id)
    calls: list[Callable[[], Awaitable[Any]]] = [
        stolen.info,
        stolen.hold,
        stolen.evict,
        stolen.close,
        stolen.delete,
        lambda: stolen.run("Mine now.", sampling=SHORT),
        lambda: log_of(stolen),
        lambda: whole.bob.open(parent=session.id),
        whole.bob.session(new_session_id(POOL_NAME)).info,
    ]
    for call in calls:
        with pytest.raises(errors.SessionNotFoundError, match="no such session"):
            await call()
    assert session.id not in [info.id async for info in whole.bob.sessions(pool=POOL_NAME)]
    assert session.id in [info.id async for info in whole.anna.sessions(pool=POOL_NAME)]
    await goes_on(whole, session)


async def test_equal_prompts_of_two_tenants_share_no_block(whole: Whole) -> None:
    asked = LONG_PROMPT
    first = await (await whole.anna.open(system="Equal.")).run(asked, sampling=SHORT)
    alone = (await whole.state()).hit_tokens
    other = await (await whole.bob.open(system="Equal.")).run(asked, sampling=SHORT)
    assert (await whole.state()).hit_tokens == alone
    assert (first.usage.cached_tokens, other.usage.cached_tokens) == (0, 0)
    again = await (await whole.anna.open(system="Equal.")).run(asked, sampling=SHORT)
    assert again.usage.cached_tokens > 0
    assert (await whole.state()).hit_tokens == alone + again.usage.cached_tokens
    assert first.token_ids == other.token_ids == again.token_ids


async def test_random_requests(whole: Whole) -> None:
    session = await begin(whole.anna)
    worker = whole.stack.workers[0].pid
    sender = Sender(whole.raw, POOL_NAME, [("authorization", "Bearer annas-key")])
    await sender.begin()
    async with asyncio.TaskGroup() as group:
        for name, request in drawn(requests(POOL_NAME, SLOTS, max_tokens=16), count=200, number=0):
            group.create_task(sender.send(name, request))
    assert sender.bad == []
    assert whole.stack.workers[0].pid == worker
    await goes_on(whole, session)
