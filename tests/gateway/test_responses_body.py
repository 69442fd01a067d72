"""The conversation in a body of POST /v1/responses, as Codex and the frameworks on OpenAI's SDK send it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malformed import JSON, places, replaced
from roost.contract.events import FinishReason, Usage
from roost.contract.heads import Head
from roost.contract.messages import JsonSchema, Message, MessageRole, Sampling, ToolCall, ToolChoice, ToolChoiceMode
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.sessions import LoggedStep
from roost_gateway.front.http import parameters
from roost_gateway.front.http.ids import CALL, REASONING, RESPONSE, TEXT, AnswerName
from roost_gateway.front.http.parameters import Use
from roost_gateway.front.http.responses_body import RESPONSES, ResponsesBody, echo_of, echoed
from roost_gateway.front.http.responses_conversation import Log, conversation_of, references_of
from roost_gateway.recognition.canonical import cleaned, units
from roost_gateway.recognition.conversation import Conversation
from wire_requests import WireRequest, requests_of

CLIENTS = ("codex", "codex-compaction", "openai-agents-responses", "openai-agents-previous-response")
ANSWER = AnswerName("default/pool/01hzzzzzzzzzzzzzzzzzzzzzzz", "step")
OTHER = AnswerName("default/pool/01hzzzzzzzzzzzzzzzzzzzzzzy", "step")
USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "name": "read", "parameters": {"type": "object", "properties": {}}, "strict": True}


NO_LOG: Log = {}


def read(body: dict[str, Any], headers: Mapping[str, str] = {}, log: Log = NO_LOG) -> Conversation:
    request, _ = parameters.read(ResponsesBody, RESPONSES, json.dumps(body).encode())
    return conversation_of(request, log, headers)


def fault(body: dict[str, Any]) -> str:
    """What a client reads of a body that is refused."""
    with pytest.raises(Refused) as refused:
        read(body)
    assert refused.value.reason is Reason.INVALID_REQUEST
    return str(refused.value.violations)


def ours(request: WireRequest) -> dict[str, Any]:
    """The recorded body, with an id of ours for that of the recorder's answer."""
    body = dict(request.body)
    if "previous_response_id" in body:
        body["previous_response_id"] = ANSWER.id(RESPONSE)
    return body


@pytest.mark.parametrize("wire", [wire for client in CLIENTS for wire in requests_of(client)])
def test_recorded_clients_are_accepted(wire: WireRequest) -> None:
    conversation = read(ours(wire), wire.headers)
    assert conversation.messages
    assert conversation.model == wire.body["model"]
    assert bool(conversation.tools) == bool(wire.body["tools"])
    assert conversation.family == wire.headers.get("thread-id", "")


def test_codexs_developer_items_are_the_system_text() -> None:
    conversation = read(requests_of("codex")[0].body)
    assert conversation.system.count("lorem") == 3
    assert [message.role for message in conversation.messages] == [MessageRole.USER, MessageRole.USER]


def test_codexs_history_extends() -> None:
    earlier, later, *_ = (read(wire.body) for wire in requests_of("codex"))
    assert later.messages[: len(earlier.messages)] == earlier.messages
    assert (later.system, later.tools) == (earlier.system, earlier.tools)


def test_the_items_of_an_answer_are_one_turn_of_the_assistant() -> None:
    *_, turn, result = read(requests_of("codex")[1].body).messages
    assert turn.content == "I will look at the files first."
    assert [call.name for call in turn.tool_calls] == ["exec_command"]
    assert turn.tool_calls[0].arguments_json == '{ "cmd" : "ls -la # caf\\u00e9" }'
    assert (result.role, result.tool_call_id, result.name) == (MessageRole.TOOL, turn.tool_calls[0].id, "exec_command")


def test_codexs_kept_items_of_a_cut_answer_give_the_same_conversation() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "encrypted_content": "x"}
    begun = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I will"}]}
    assert read({"input": [USER, reasoning]}) == read({"input": [USER]}) == read({"input": [USER, reasoning, begun]})


def test_pydantic_ais_thinking_message_is_reasoning_to_recognition() -> None:
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>"}
    said = {"role": "assistant", "content": "Yes."}
    echo, plain = (cleaned(read({"input": [USER, *turn, USER]})) for turn in ([thought, said], [said]))
    assert units(echo.messages) == units(plain.messages)


def test_codexs_namespaces_are_part_of_the_names_and_its_web_search_is_not_shown() -> None:
    names = [tool.name for tool in read(requests_of("codex")[0].body).tools]
    assert "exec_command" in names
    assert "multi_agent_v1__spawn_agent" in names
    assert len(names) == 7 + 5
    call = {"type": "function_call", "call_id": "c", "name": "spawn_agent", "namespace": "multi_agent_v1"}
    output = {"type": "function_call_output", "call_id": "c", "output": "ok"}
    _, turn, result = read({"input": [USER, call, output]}).messages
    assert turn.tool_calls[0].name == result.name == "multi_agent_v1__spawn_agent"


def test_openai_agents_previous_response_names_session_and_step() -> None:
    conversation = read(ours(requests_of("openai-agents-previous-response")[1]))
    assert conversation.previous == ANSWER.step
    assert [message.role for message in conversation.messages] == [MessageRole.TOOL]


@pytest.mark.parametrize(
    "name", ["resp_00000000000000000001", "resp_", "x", "resp_é", AnswerName("x", "y").id(RESPONSE)]
)
def test_a_response_that_we_never_gave_does_not_exist(name: str) -> None:
    with pytest.raises(Refused) as refused:
        read({"input": "hello", "previous_response_id": name})
    assert refused.value.reason is Reason.SESSION_NOT_FOUND


def logged(content: str, *calls: ToolCall) -> LoggedStep:
    return LoggedStep(
        step_id=ANSWER.step_id,
        index=0,
        messages=(),
        output=Message(MessageRole.ASSISTANT, content, calls),
        finish_reason=FinishReason.STOP,
        usage=Usage(),
        head=Head(),
        sampling=Sampling(),
        format=None,
        prompt_token_ids=(),
        output_token_ids=(),
        commit_time=None,
    )


def reference(prefix: str, part: int, answer: AnswerName = ANSWER) -> dict[str, Any]:
    return {"type": "item_reference", "id": replace(answer, part=part).id(prefix)}


def test_ai_sdks_references_stand_for_what_the_log_has() -> None:
    call = ToolCall("c1", "read", "{}")
    items = [USER, reference(REASONING, 0), reference(TEXT, 0), reference(TEXT, 1), reference(CALL, 0)]
    output = {"type": "function_call_output", "call_id": "c1", "output": "ok"}
    body = {"input": [*items, output]}
    request = ResponsesBody.model_validate(body)
    assert {name.step for name in references_of(request)} == {ANSWER.step}
    log = {ANSWER.step: logged("Looking. Found.", call)}
    assert read(body, log=log).messages[1] == Message(MessageRole.ASSISTANT, "Looking. Found.", (call,))


def test_a_reference_without_a_type_is_one() -> None:
    item = {"id": replace(ANSWER, part=0).id(TEXT)}
    log = {ANSWER.step: logged("Hi.")}
    assert read({"input": [USER, item, USER]}, log=log).messages[1].content == "Hi."


def test_a_reference_to_a_call_that_was_not_made_does_not_exist() -> None:
    with pytest.raises(Refused) as refused:
        read({"input": [USER, reference(CALL, 3), USER]}, log={ANSWER.step: logged("Hi.")})
    assert refused.value.reason is Reason.SESSION_NOT_FOUND


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}, "input_image"),
        ({"type": "computer_call", "id": "x"}, "computer_call"),
        ({"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file"}]}, "input_file"),
        ({"type": "function_call", "call_id": "c"}, "name"),
        ({"role": "tool", "content": ""}, "role"),
        (7, "input"),
    ],
)
def test_items_that_cannot_be_read_are_refused_by_name(item: object, named: str) -> None:
    text = fault({"input": [item]})
    assert "input[0]" in text
    assert named in text


def test_an_input_has_10000_items_at_most() -> None:
    assert "at most 10000" in fault({"input": [USER] * 10_001})


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", None),
        ("none", ToolChoice(ToolChoiceMode.NONE)),
        ("required", ToolChoice(ToolChoiceMode.REQUIRED)),
        ({"type": "function", "name": "read"}, ToolChoice(ToolChoiceMode.REQUIRED, "read")),
        ({"type": "function", "name": "f", "namespace": "n"}, ToolChoice(ToolChoiceMode.REQUIRED, "n__f")),
    ],
)
def test_tool_choice(choice: object, expected: ToolChoice | None) -> None:
    assert read({"input": [USER], "tools": [TOOL], "tool_choice": choice}).format == expected


@pytest.mark.parametrize(
    "choice", ["maybe", 7, {"type": "web_search"}, {"type": "function"}, {"type": "function", "name": ""}]
)
def test_a_malformed_tool_choice_is_refused(choice: object) -> None:
    assert "tool_choice" in fault({"input": [USER], "tools": [TOOL], "tool_choice": choice})


def test_a_schema_of_the_output_goes_with_no_tools() -> None:
    text = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}}
    assert read({"input": [USER], "text": text}).format == JsonSchema('{"type": "object"}')
    assert read({"input": [USER], "text": {"format": {"type": "text"}}, "tools": [TOOL]}).format is None
    assert "text.format" in fault({"input": [USER], "text": text, "tools": [TOOL]})


def test_tools_that_run_at_openai_are_refused_by_name() -> None:
    assert "code_interpreter" in fault({"input": [USER], "tools": [{"type": "code_interpreter"}]})


def test_a_conversation_is_a_family() -> None:
    body = {"input": [USER], "prompt_cache_key": "key"}
    assert read(body).family == "key"
    assert read({**body, "conversation": "conv_1"}).family == read({**body, "conversation": {"id": "conv_1"}}).family
    assert read({**body, "conversation": "conv_1"}).family == "conv_1"
    assert "('conversation', " in fault({**body, "conversation": "c" * 257})


def test_background_is_no_part_of_the_conversation() -> None:
    """So that a request sent again without it attaches to the step."""
    assert read({"input": [USER], "background": True}) == read({"input": [USER]})
    assert "background" in fault({"input": [USER], "background": "yes"})


def test_what_is_kept_of_a_body_is_what_its_response_repeats_and_its_calls_depend_on() -> None:
    tools = [
        {"type": "function", "name": "read"},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "spawn"}]},
    ]
    repeated = {"model": "m", "instructions": "i", "previous_response_id": "resp_x", "tools": tools}
    numbers = {"temperature": 1, "top_p": 0.5, "max_output_tokens": 7}
    whole = {**repeated, **numbers, "tool_choice": "auto", "text": {"format": {"type": "text"}}, "stream": True}
    body, _ = parameters.read(ResponsesBody, RESPONSES, json.dumps({**whole, "input": [USER]}).encode())
    kept = echoed(json.loads(json.dumps(echo_of(body))))
    assert kept.input == []
    for name in (*repeated, *numbers):
        assert getattr(kept, name) == getattr(body, name)
    assert list(kept.functions()) == list(body.functions())


def test_the_table_has_the_parameters_that_are_read() -> None:
    assert set(RESPONSES.named(Use.SUPPORTED)) == set(ResponsesBody.model_fields)


_WHOLE = {
    **requests_of("codex")[1].body,
    "instructions": "i",
    "previous_response_id": None,
    "conversation": "c",
    "tools": requests_of("codex")[1].body["tools"][-5:],
    "text": {"format": None},
    "temperature": 0.5,
    "max_output_tokens": 7,
}


@given(st.sampled_from(places(_WHOLE)), JSON)
def test_a_malformed_body_is_refused_or_gives_a_conversation(path: tuple[Any, ...], value: Any) -> None:
    raw = json.dumps(replaced(_WHOLE, path, value)).encode()
    try:
        request, _ = parameters.read(ResponsesBody, RESPONSES, raw)
        kept = json.dumps(echo_of(request))
        assert json.dumps(echo_of(echoed(json.loads(kept)))) == kept
        log = {name.step: logged("Hi.") for name in references_of(request)}
        conversation_of(request, log, {})
    except Refused as refused:
        check_invalid(refused)


def check_invalid(refused: Refused) -> None:
    assert refused.reason in (Reason.INVALID_REQUEST, Reason.SESSION_NOT_FOUND)
