"""Calls that are no steps: retried when that is safe, paged, authenticated; and what the client refuses to send."""

import socket
from typing import Any

import grpc
import pytest

from roost import (
    Client,
    Head,
    JsonSchema,
    Message,
    MessageRole,
    Sampling,
    SessionState,
    Tier,
    TLSConfig,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    errors,
    tool_result,
    user,
)
from roost.contract.reasons import Reason
from roost.testing import FakeGateway
from roost.v1 import session_service_pb2 as pb
from scripted_gateway import BREAK, QUICK, SESSION, Refuse, ScriptedGateway


def unused_target() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def test_connecting_to_nobody_names_the_targets() -> None:
    target = unused_target()
    with pytest.raises(errors.UnavailableError, match=f"no gateway answers at {target}"):
        await Client.connect(target, connect_timeout=10.0)


async def test_one_reachable_gateway_is_enough() -> None:
    async with FakeGateway() as fake:
        for targets in ([unused_target(), *fake.targets], [*fake.targets, unused_target()]):
            async with await Client.connect(targets) as client:
                assert (await client.open()).id.startswith("default/fake/")


async def test_the_first_gateway_that_answers_is_used() -> None:
    async with ScriptedGateway() as first, ScriptedGateway() as second:
        for targets in ([first.target, second.target], [unused_target(), first.target, second.target]):
            async with await Client.connect(targets) as client:
                await client.open()
    assert (first.calls, second.calls) == (["open"] * 2, [])


async def test_after_a_failure_later_calls_stay_with_the_other_gateway() -> None:
    async with ScriptedGateway() as first, ScriptedGateway() as second:
        first.refusals = [BREAK]
        async with await Client.connect([first.target, second.target], retry=QUICK) as client:
            await client.open()
            await client.open()
    assert (first.calls, second.calls) == (["open"], ["open"] * 2)


@pytest.mark.parametrize("targets", [[], "", ["127.0.0.1:1", ""]])
async def test_a_target_must_be_given(targets: list[str] | str) -> None:
    with pytest.raises(ValueError, match="at least one target"):
        await Client.connect(targets)


async def test_a_key_with_a_line_break_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="line break"):
        await Client.connect("127.0.0.1:1", api_key="secret\n")


async def test_opening_is_retried_with_the_same_request_id() -> None:
    async with ScriptedGateway() as gateway, await Client.connect(gateway.target, retry=QUICK) as client:
        gateway.refusals = [BREAK, Refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.STORE_FULL, 0.001)]
        session = await client.open()
    assert session.id == SESSION
    assert session.head == Head(9, b"i" * 16)
    assert gateway.calls == ["open"] * 3
    assert len(gateway.opened.request_id) == 32


async def test_an_open_request_id_opens_one_session() -> None:
    async with FakeGateway() as fake:
        client = await fake.connect()
        assert (await client.open(request_id="r")).id == (await client.open(request_id="r")).id
        assert (await client.open()).id != (await client.open()).id


async def test_a_delete_whose_answer_was_lost_has_succeeded() -> None:
    gone = Refuse(grpc.StatusCode.NOT_FOUND, Reason.SESSION_NOT_FOUND)
    async with ScriptedGateway() as gateway, await Client.connect(gateway.target, retry=QUICK) as client:
        gateway.refusals = [BREAK, gone]
        await client.session(SESSION).delete()
        gateway.refusals = [gone]
        with pytest.raises(errors.SessionNotFoundError):
            await client.session(SESSION).delete()


async def test_a_closed_client_says_so() -> None:
    async with FakeGateway() as fake:
        client = await Client.connect(fake.targets)
        session = await client.open()
        await client.close()
        for call in (client.open(), session.info(), session.run("x")):
            with pytest.raises(RuntimeError, match="client is closed"):
                await call
        await client.close()


async def test_a_parent_is_a_handle_a_record_or_a_name() -> None:
    async with FakeGateway() as fake:
        client = await fake.connect()
        parent = await client.open()
        for given in (parent, await parent.info(), parent.id):
            assert (await (await client.open(parent=given)).info()).parent == parent.id


async def test_a_call_to_a_silent_gateway_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        async with await Client.connect(target, lazy=True, timeout=0.3) as client:
            with pytest.raises((errors.DeadlineExceededError, errors.UnavailableError)):
                await client.session(SESSION).info()


async def test_the_first_answer_tells_a_handle_its_head() -> None:
    async with FakeGateway() as fake:
        client = await fake.connect()
        opened = await client.open()
        await opened.run("one")
        handle = client.session(opened.id)
        assert handle.head is None
        assert (await handle.info()).head == handle.head == opened.head


async def test_sessions_come_over_all_pages_and_filters() -> None:
    async with FakeGateway() as fake:
        client = await fake.connect()
        opened = [await client.open(task="a" if number % 2 else "b", labels={"n": str(number)}) for number in range(5)]
        await opened[0].close()
        await opened[1].run("hello")
        listed = [info async for info in client.sessions(page_size=2)]
        assert sorted(info.id for info in listed) == sorted(session.id for session in opened)
        assert {info.labels["n"] for info in listed if info.task == "a"} == {"1", "3"}
        assert [info.id async for info in client.sessions(state=SessionState.CLOSED)] == [opened[0].id]
        assert [info.id async for info in client.sessions(tier=Tier.HOT)] == [opened[1].id]
        assert len([info async for info in client.sessions(task="b")]) == 3


async def test_the_log_comes_over_all_pages() -> None:
    async with FakeGateway() as fake:
        client = await fake.connect()
        session = await client.open()
        for number in range(5):
            await session.run(f"step {number}", temperature=0.5, stop=["never"])
        steps = [step async for step in session.steps(page_size=2, include_token_ids=True)]
        assert [step.output.content for step in steps] == [f"step {number}" for number in range(5)]
        assert all(bytes(step.output_token_ids).decode() == step.output.content for step in steps)
        assert steps[0].sampling.temperature == 0.5
        assert steps[0].sampling.stop == ("never",)
        assert steps[0].sampling.seed is not None
        assert steps[-1].head == session.head
        assert [step.prompt_token_ids async for step in session.steps()] == [()] * 5


async def test_the_api_key_goes_with_every_call() -> None:
    async with ScriptedGateway([]) as gateway, await Client.connect(gateway.target, api_key="secret") as client:
        session = await client.open()
        gateway.scripts = [[Refuse(grpc.StatusCode.ABORTED, Reason.ATTEMPT_FENCED)]]
        with pytest.raises(errors.AttemptFencedError):
            await session.run("x")
    assert [entry["authorization"] for entry in gateway.metadata] == ["Bearer secret"] * 2


async def test_a_wrong_key_is_an_authentication_error() -> None:
    async with FakeGateway(api_keys={"right": "t"}) as fake:
        with pytest.raises(errors.AuthenticationError):
            await (await fake.connect(api_key="wrong")).open()
        with pytest.raises(errors.AuthenticationError):
            await (await fake.connect()).open()
        await (await fake.connect(api_key="right")).open()


async def test_a_steps_content_reaches_the_gateway() -> None:
    call = ToolCall("c1", "grep", "{}")
    async with FakeGateway() as fake:
        client = await fake.connect()
        session = await client.open(tools=[Tool("grep", "Searches.", {"type": "object"})])
        messages = [user("hi"), tool_result(call, {"n": 1})]
        sampling = Sampling(temperature=0.5, stop=["x"], logit_bias={3: -1.0})
        choice = ToolChoice(ToolChoiceMode.REQUIRED, "grep")
        result = await session.run(messages, step_id="s", sampling=sampling, format=choice, temperature=0.0, top_k=4)
        request = fake.step_requests[0]
    assert (request.step_id, request.sampling.temperature, request.sampling.top_k) == ("s", 0.0, 4)
    assert (list(request.sampling.stop), dict(request.sampling.logit_bias)) == (["x"], {3: -1.0})
    assert not request.sampling.HasField("seed")
    assert request.messages[1] == pb.Message(
        role=pb.MESSAGE_ROLE_TOOL, content='{"n": 1}', tool_call_id="c1", name="grep"
    )
    assert request.format.tool_choice == pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED, name="grep")
    assert result.tool_calls[0].arguments == {}


def test_bad_values_are_refused_where_they_are_made() -> None:
    with pytest.raises(ValueError, match="1 to 128 letters"):
        Tool("no spaces")
    with pytest.raises(TypeError):
        Tool("x", parameters={"bad": object()})
    with pytest.raises(TypeError, match=r"stop=\[…\]"):
        Sampling(stop="x")
    with pytest.raises(ValueError, match="REQUIRED only"):
        ToolChoice(name="x")
    with pytest.raises(ValueError, match="together"):
        TLSConfig(client_key=b"x")
    with pytest.raises(ValueError, match="requird"):
        ToolChoice("requird")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a valid MessageRole"):
        Message("nobody", "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="content is text, not NoneType"):
        user(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="mapping or JSON text"):
        JsonSchema(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not JSON serializable"):
        JsonSchema({"const": object()})
    with pytest.raises(ValueError, match="not a JSON object"):
        _ = ToolCall("c", "f", "[]").arguments
    assert JsonSchema('{"type": "object"}').text == JsonSchema({"type": "object"}).text


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"max_tokens": -1}, ValueError),
        ({"max_tokens": 2**32}, ValueError),
        ({"seed": 2**64}, ValueError),
        ({"top_k": 2.5}, TypeError),
        ({"logprobs": True}, TypeError),
        ({"temperature": "hot"}, TypeError),
        ({"stop_token_ids": [-1]}, ValueError),
        ({"logit_bias": {-1: 1.0}}, ValueError),
        ({"logit_bias": {3: "much"}}, TypeError),
    ],
)
def test_sampling_names_the_value_that_is_no_number(bad: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(bad))):
        Sampling(**bad)


async def test_names_do_for_enums() -> None:
    async with FakeGateway() as fake:
        client = await fake.connect()
        session = await client.open(tools=[Tool("grep")])
        await session.run([Message("user", "x")], format=ToolChoice("required"))  # type: ignore[arg-type]
        assert fake.step_requests[0].format.tool_choice.mode == pb.TOOL_CHOICE_MODE_REQUIRED
        assert [info.id async for info in client.sessions(state="active", tier="hot")] == [session.id]  # type: ignore[arg-type]


async def test_bad_arguments_are_refused_before_anything_is_sent() -> None:
    async with await Client.connect("127.0.0.1:1", lazy=True) as client:
        with pytest.raises(ValueError, match="not a session's name"):
            client.session("nonsense")
        session = client.session(SESSION)
        with pytest.raises(ValueError, match="at least one message"):
            session.step([])
        with pytest.raises(TypeError, match="is not a Message"):
            session.step(["text"])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="is not a format"):
            session.step("x", format={"type": "object"})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="labels are texts"):
            await client.open(labels={"n": 1})  # type: ignore[dict-item]
        with pytest.raises(TypeError, match="max_tokns"):
            session.step("x", max_tokns=4)  # type: ignore[call-arg]


async def test_a_message_above_grpcs_limit_is_too_large() -> None:
    async with FakeGateway() as fake:
        session = await (await fake.connect()).open()
        with pytest.raises(errors.MessageTooLargeError):
            await session.run(Message(MessageRole.USER, "x" * (65 << 20)))
