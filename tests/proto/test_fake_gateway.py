"""The fake gateway that users test with: replies, mishaps, limits."""

import asyncio
import threading

import pytest

from roost import (
    Delta,
    FinishReason,
    JsonSchema,
    Message,
    MessageRole,
    Restarted,
    RetryConfig,
    SessionTool,
    Started,
    TextPart,
    Tier,
    Tool,
    ToolCall,
    errors,
)
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.loghash import extend, pack_ids
from roost.sync import SyncClient
from roost.testing import FakeGateway, FakeRole, Reason, Turn, refusal

QUICK = RetryConfig(initial_backoff=0.001, max_backoff=0.002, give_up_after=20.0)


async def test_a_reply_sees_the_whole_conversation() -> None:
    turns: list[Turn] = []

    def reply(turn: Turn) -> str:
        turns.append(turn)
        return f"answer {len(turns)}"

    async with FakeGateway(reply) as fake:
        session = await (await fake.connect()).open(system="Be kind.", role="default")
        await session.run("one")
        assert (await session.run("two")).text == "answer 2"
    assert [message.content for message in turns[1].history] == ["one", "answer 1"]
    assert (turns[1].messages[0].content, turns[1].system, turns[1].role) == ("two", "Be kind.", "default")


async def test_a_reply_may_call_tools_and_take_its_time() -> None:
    async def reply(turn: Turn) -> Message:
        await asyncio.sleep(0)
        return Message(MessageRole.ASSISTANT, "Let me look.", (ToolCall("c1", "grep", '{"q": "x"}'),))

    async with FakeGateway(reply) as fake:
        result = await (await (await fake.connect()).open()).run("find x")
    assert result.finish_reason is FinishReason.TOOL_CALLS
    assert result.tool_calls[0].arguments == {"q": "x"}
    assert result.content == "Let me look."
    assert '"grep"' in result.text


async def test_thinking_at_the_beginning_of_a_reply_is_its_reasoning() -> None:
    reply = "<think>\nHm.\n</think>\n\nIt is 42."
    async with FakeGateway(lambda turn: reply) as fake:
        session = await (await fake.connect()).open()
        result = await session.run("What is it?")
        assert (result.text, result.content, result.reasoning) == (reply, "It is 42.", "Hm.")
        logged = [step async for step in session.steps()]
        assert [(step.output.content, step.reasoning) for step in logged] == [("It is 42.", "Hm.")]
        thinking = len("<think>\nHm.\n</think>")
        assert (result.committed.reasoning_tokens, logged[0].reasoning_tokens) == (thinking, thinking)


async def test_the_head_is_the_real_hash_of_the_ids() -> None:
    async with FakeGateway() as fake:
        session = await (await fake.connect()).open()
        await session.run("one")
        await session.run("two ✓")
        log_hash, length = b"", 0
        async for step in session.steps(include_token_ids=True):
            ids = [*step.prompt_token_ids, *step.output_token_ids]
            log_hash, length = extend(log_hash, pack_ids(ids)), length + len(ids)
    assert session.head is not None
    assert (session.head.length, session.head.log_hash) == (length, log_hash)


@pytest.mark.parametrize("mishap", ["break", "lose commit", "restart"])
async def test_a_text_survives_every_mishap(mishap: str) -> None:
    text = "a lönger text → of several pieces"
    async with FakeGateway(gateways=2, delta_tokens=4) as fake:
        session = await (await fake.connect(retry=QUICK)).open()
        if mishap == "break":
            fake.break_next_step(after_tokens=9)
            fake.break_next_step(after_tokens=0)
            fake.break_next_step(after_tokens=1000)
        elif mishap == "lose commit":
            fake.lose_next_commit()
        else:
            fake.restart_next_step(after_tokens=8)
        seen, restarts = "", 0
        async for event in session.step(text, step_id="s"):
            restarts += isinstance(event, Restarted)
            seen = "" if isinstance(event, Restarted) else seen + (event.text if isinstance(event, Delta) else "")
        assert seen == text
        assert restarts == (mishap == "restart")
        assert len([step async for step in session.steps()]) == 1
        assert len(fake.step_requests) == {"break": 4, "lose commit": 2, "restart": 1}[mishap]


async def test_a_failure_comes_as_its_class() -> None:
    async with FakeGateway() as fake:
        session = await (await fake.connect()).open()
        fake.fail_next(Reason.BUDGET_EXHAUSTED)
        with pytest.raises(errors.BudgetExhaustedError):
            await session.run("x")
        assert (await session.run("x")).text == "x"


async def test_a_reply_that_fails_leaves_the_session_free() -> None:
    failures = [refusal(Reason.STEP_TOO_LONG), ValueError("oops")]

    def reply(turn: Turn) -> str:
        if failures:
            raise failures.pop(0)
        return "ok"

    async with FakeGateway(reply) as fake:
        session = await (await fake.connect()).open()
        with pytest.raises(errors.StepTooLongError):
            await session.run("x")
        with pytest.raises(errors.InternalError, match="oops"):
            await session.run("x")
        assert (await session.run("x")).text == "ok"


async def test_a_step_left_by_its_client_leaves_the_session_free() -> None:
    asked = asyncio.Event()

    async def reply(turn: Turn) -> str:
        if turn.messages[0].content == "slow":
            asked.set()
            await asyncio.Event().wait()
        return "ok"

    async with FakeGateway(reply) as fake:
        session = await (await fake.connect()).open()
        slow = asyncio.create_task(session.run("slow"))
        await asked.wait()
        assert (await session.info()).running_step_id
        with pytest.raises(errors.AnotherStepRunningError):
            await session.run("other")
        slow.cancel()
        await asyncio.wait([slow])
        while (await session.info()).running_step_id:
            pass  # each look is a call, in whose time the gateway hears of the cancellation
        assert (await session.run("x")).text == "ok"


async def test_what_comes_after_a_step_that_was_left_waits_until_it_is_out_of_the_way() -> None:
    asked = asyncio.Event()

    async def reply(turn: Turn) -> str:
        if turn.messages[0].content == "slow":
            asked.set()
            await asyncio.Event().wait()
        return "ok"

    async with FakeGateway(reply) as fake:
        client = await fake.connect(retry=QUICK)
        session = await client.open()
        for call in (lambda: session.run("x"), session.hold, session.evict, session.close):
            asked.clear()
            async with session.step("slow") as events:
                async for _ in events:
                    break
                await asked.wait()
            fake.fail_next(Reason.ANOTHER_STEP_RUNNING, retry_after=5.0)
            await call()
        stranger = client.session(session.id)
        fake.fail_next(Reason.ANOTHER_STEP_RUNNING, retry_after=5.0)
        with pytest.raises(errors.AnotherStepRunningError):
            await stranger.delete()


async def test_a_step_left_by_its_gateway_keeps_others_out_for_one_lease() -> None:
    once = RetryConfig(give_up_after=0.0)
    async with FakeGateway() as fake:
        session = await (await fake.connect(retry=once)).open()
        fake.break_next_step(after_tokens=0)
        with pytest.raises(errors.UnavailableError):
            await session.run("lost", step_id="lost")
        with pytest.raises(errors.AnotherStepRunningError) as raised:
            await session.run("other")
        assert raised.value.retry_after is not None
        assert 0.0 < raised.value.retry_after <= LEASE_TTL_SECONDS
        later = fake._store.clock() + round(LEASE_TTL_SECONDS * 1000)
        fake._store.clock = lambda: later
        assert (await session.run("other")).committed.index == 0
        assert (await session.run("lost", step_id="lost")).committed.index == 1


async def test_a_rolled_back_log_is_noticed_and_can_be_accepted() -> None:
    async with FakeGateway() as fake:
        session = await (await fake.connect()).open()
        await session.run("one")
        kept = session.head
        await session.run("two")
        fake.roll_back(session.id)
        with pytest.raises(errors.SessionRolledBackError) as raised:
            await session.run("three")
        assert raised.value.expected == session.head
        actual = raised.value.actual
        assert kept is not None
        assert actual is not None
        assert (actual.length, actual.log_hash) == (kept.length, kept.log_hash)
        session.head = (await session.info()).head
        assert (await session.run("three")).committed.index == 1


async def test_sampling_limits_cut_the_text() -> None:
    async with FakeGateway(lambda turn: "one → two. three") as fake:
        session = await (await fake.connect()).open()
        cut = await session.run("x", max_tokens=5)
        assert (cut.text, len(cut.token_ids), cut.finish_reason) == ("one ", 5, FinishReason.LENGTH)
        stopped = await session.run("x", stop=[".", "three"])
        assert (stopped.text, stopped.finish_reason) == ("one → two", FinishReason.STOP)
        assert stopped.committed.stop_string == "."
        assert bytes(stopped.token_ids).decode() == "one → two."


async def test_a_role_has_limits() -> None:
    roles = [FakeRole("short", max_steps=1), FakeRole("poor", budget_tokens=1), FakeRole("terse", max_output_tokens=2)]
    async with FakeGateway(roles=roles) as fake:
        client = await fake.connect()
        short, poor, terse = [await client.open(role=role.name) for role in roles]
        await short.run("x")
        with pytest.raises(errors.StepLimitReachedError):
            await short.run("x")
        await poor.run("x")
        with pytest.raises(errors.BudgetExhaustedError):
            await poor.run("x")
        assert (await poor.info()).budget_remaining_tokens == 0
        assert (await terse.run("long")).text == "lo"
        assert (await short.info()).role == "short"


async def test_a_context_has_an_end() -> None:
    async with FakeGateway(context_tokens=200) as fake:
        session = await (await fake.connect()).open()
        with pytest.raises(errors.StepTooLongError):
            await session.run("x" * 300)


async def test_system_text_and_tools_must_leave_room_for_a_step() -> None:
    async with FakeGateway(context_tokens=200) as fake:
        client = await fake.connect()
        with pytest.raises(errors.StepTooLongError) as raised:
            await client.open(system="x" * 200)
        assert raised.value.metadata["limit_tokens"] == "200"
        session = await client.open(system="Be kind.", tools=[Tool("fs.read")])
        assert (await session.info()).tools == (SessionTool("fs.read", True),)
        assert [info.tools async for info in client.sessions()] == [()]


async def test_a_schema_must_be_json_and_so_must_the_reply() -> None:
    async with FakeGateway(lambda turn: "no json") as fake:
        session = await (await fake.connect()).open()
        with pytest.raises(errors.InvalidRequestError, match=r"format\.json_schema"):
            await session.run("x", format=JsonSchema("{"))
        with pytest.raises(errors.InternalError):
            await session.run("x", format=JsonSchema({"type": "object"}))


async def test_evicting_makes_cold_and_the_next_step_pays() -> None:
    async with FakeGateway() as fake:
        session = await (await fake.connect()).open()
        first = await session.run("one")
        assert (await session.info()).tier is Tier.HOT
        assert await session.evict() == first.committed.head.length
        assert (await session.info()).tier is Tier.COLD
        second = await session.run("two")
    assert second.usage.reconstructed_tokens == first.committed.head.length
    assert second.usage.cached_tokens == 0


def test_code_that_blocks_can_be_tested_too() -> None:
    with FakeGateway(lambda turn: "so") as fake, SyncClient.connect(fake.targets, retry=QUICK) as client:
        session = client.open()
        fake.break_next_step(after_tokens=0)
        assert session.run("x").text == "so"
    assert not [thread for thread in threading.enumerate() if thread.name == "roost-sync"]


async def test_more_steps_than_there_are_can_be_rolled_back() -> None:
    async with FakeGateway() as fake:
        session = await (await fake.connect()).open()
        for number in range(3):
            await session.run(str(number))
        fake.roll_back(session.id, steps=5)
        assert (await session.info()).steps == 0


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one gateway"):
        FakeGateway(gateways=0)


async def test_events_equal_those_that_a_test_writes_down() -> None:
    async with FakeGateway(lambda turn: "yes") as fake:
        session = await (await fake.connect()).open()
        started, delta, _ = [event async for event in session.step("well?")]
    assert isinstance(started, Started)
    assert started == Started("fake-worker", started.prompt_tokens, 0)
    assert delta == Delta("yes", tuple(b"yes"), 0, 0, parts=(TextPart("yes"),))
