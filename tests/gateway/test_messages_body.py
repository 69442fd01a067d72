"""The conversation in a body of POST /v1/messages, as Claude Code and the Anthropic SDKs send it."""

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malformed import JSON, places, replaced
from roost.contract.messages import JsonSchema, Message, MessageRole, ToolCall, ToolChoice, ToolChoiceMode
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_gateway.front.http import parameters
from roost_gateway.front.http.messages_body import COUNT_TOKENS, MESSAGES, CountBody, MessagesBody
from roost_gateway.front.http.messages_conversation import conversation_of
from roost_gateway.front.http.parameters import Body, ParameterTable, Use
from roost_gateway.recognition.conversation import Conversation
from wire_requests import WireRequest, requests_of

CLIENTS = ("claude-code", "claude-code-subagent", "sdk-anthropic", "aisdk-anthropic")
HELLO = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}
TOOL = {"name": "read", "description": "Reads.", "input_schema": {"type": "object", "properties": {}}}


def read(body: dict[str, Any], headers: Mapping[str, str] = {}) -> Conversation:
    request, _ = parameters.read(MessagesBody, MESSAGES, json.dumps(body).encode())
    return conversation_of(request, headers)


def fault(body: dict[str, Any]) -> str:
    """What a client reads of a body that is refused."""
    with pytest.raises(Refused) as refused:
        read(body)
    assert refused.value.reason is Reason.INVALID_REQUEST
    return str(refused.value.violations)


def content_of(*blocks: dict[str, Any], role: str = "user") -> dict[str, Any]:
    """A request that ends with such content."""
    turn = {"role": role, "content": list(blocks)}
    return {**HELLO, "messages": [turn] if role == "user" else [turn, *HELLO["messages"]]}


@pytest.mark.parametrize("wire", [wire for client in CLIENTS for wire in requests_of(client)])
def test_recorded_clients_are_accepted(wire: WireRequest) -> None:
    conversation = read(wire.body, wire.headers)
    assert conversation.messages
    assert conversation.model == wire.body["model"]
    assert len(conversation.tools) == len(wire.body["tools"])
    assert conversation.sampling.max_tokens == wire.body["max_tokens"]
    names = wire.headers.get("x-claude-code-session-id"), wire.headers.get("x-claude-code-agent-id")
    assert conversation.family == "/".join(name for name in names if name)


def test_claude_codes_user_id_names_the_session_without_its_header() -> None:
    wire = requests_of("claude-code")[0]
    assert read(wire.body).family == wire.headers["x-claude-code-session-id"]


def test_claude_codes_history_extends_although_its_marker_wanders_and_lists_collapse() -> None:
    requests = [read(wire.body) for wire in requests_of("claude-code")]
    for earlier, later in pairwise(requests):
        assert later.messages[: len(earlier.messages)] == earlier.messages
        assert (later.system, later.tools) == (earlier.system, earlier.tools)
    raw = [wire.body["messages"] for wire in requests_of("claude-code")]
    assert raw[1][: len(raw[0])] != raw[0], "the record shows the rewriting"


def test_claude_codes_system_messages_stay_where_they_stand() -> None:
    conversation = read(requests_of("claude-code")[0].body)
    assert [message.role for message in conversation.messages] == [MessageRole.USER, MessageRole.SYSTEM]
    assert conversation.system.count("\n\n") == 2, "three blocks of system text"


def test_leading_system_messages_join_the_system_text() -> None:
    body = {**HELLO, "system": "a", "messages": [{"role": "system", "content": "b"}, *HELLO["messages"]]}
    conversation = read(body)
    assert (conversation.system, [message.role for message in conversation.messages]) == ("a\n\nb", [MessageRole.USER])


def test_claude_codes_tool_results_come_in_completion_order_with_the_names_of_their_calls() -> None:
    conversation = read(requests_of("claude-code")[2].body)
    *_, asked, first, second = conversation.messages
    assert [call.id for call in asked.tool_calls] == [second.tool_call_id, first.tool_call_id]
    assert (first.role, first.name, second.name) == (MessageRole.TOOL, "Read", "Read")


def test_an_assistants_turn_is_its_text_and_calls_without_reasoning() -> None:
    body = content_of(
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "I "},
        {"type": "text", "text": "look"},
        {"type": "tool_use", "id": "t1", "name": "read", "input": {"path": "é", "n": 1.5}},
        role="assistant",
    )
    call = ToolCall("t1", "read", '{"path": "é", "n": 1.5}')
    assert read(body).messages[0] == Message(MessageRole.ASSISTANT, "I look", (call,))


def test_claude_codes_cut_notice_follows_the_result_as_a_users_message() -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "ok"}]}
    body = content_of(result, {"type": "text", "text": "You were cut off."})
    assert read(body).messages == (
        Message(MessageRole.TOOL, "ok", tool_call_id="t1"),
        Message(MessageRole.USER, "You were cut off."),
    )


@pytest.mark.parametrize("content", [None, "", []])
def test_an_empty_result_of_a_tool_that_failed_says_so(content: object) -> None:
    body = content_of({"type": "tool_result", "tool_use_id": "t1", "content": content, "is_error": True})
    assert [message.content for message in read(body).messages] == ["error"]


@pytest.mark.parametrize(
    ("given_block", "role"),
    [
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}, "user"),
        ({"type": "document", "source": {}}, "user"),
        ({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, "assistant"),
    ],
)
def test_blocks_that_are_no_text_are_refused_by_name(given_block: dict[str, Any], role: str) -> None:
    text = fault(content_of(given_block, role=role))
    assert "messages[0]" in text
    assert given_block["type"] in text


def test_an_image_in_a_tools_result_is_refused_by_name() -> None:
    text = fault(content_of({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]}))
    assert "'image'" in text


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        ({"type": "auto", "disable_parallel_tool_use": True}, None),
        ({"type": "any"}, ToolChoice(ToolChoiceMode.REQUIRED)),
        ({"type": "tool", "name": "read"}, ToolChoice(ToolChoiceMode.REQUIRED, "read")),
        ({"type": "none"}, ToolChoice(ToolChoiceMode.NONE)),
    ],
)
def test_tool_choice(choice: object, expected: ToolChoice | None) -> None:
    assert read({**HELLO, "tools": [TOOL], "tool_choice": choice}).format == expected


@pytest.mark.parametrize("choice", [{"type": "tool"}, {"type": "any", "name": "read"}, {"type": "maybe"}, "auto"])
def test_a_malformed_tool_choice_is_refused(choice: object) -> None:
    assert "tool_choice" in fault({**HELLO, "tools": [TOOL], "tool_choice": choice})


def test_tools_that_run_at_anthropic_are_refused_by_name() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    assert "web_search_20250305" in fault({**HELLO, "tools": [search]})


def test_a_search_for_deferred_tools_is_ignored_and_deferred_tools_are_shown() -> None:
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    conversation = read({**HELLO, "tools": [search, {**TOOL, "defer_loading": True}]})
    assert [tool.name for tool in conversation.tools] == ["read"]


def test_a_schema_of_the_output_goes_with_no_tools() -> None:
    output = {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert read({**HELLO, "output_config": output}).format == JsonSchema('{"type": "object"}')
    assert "output_config.format" in fault({**HELLO, "output_config": output, "tools": [TOOL]})


@pytest.mark.parametrize("user", ["someone", '{"session_id": 7}', "[]", "[" * 100_000, "", None])
def test_a_user_without_a_session_gives_no_family(user: str | None) -> None:
    assert read({**HELLO, "metadata": {"user_id": user}}).family == ""


def test_a_session_id_of_more_than_256_bytes_is_refused() -> None:
    user = json.dumps({"session_id": "s" * 257})
    assert "256 bytes" in fault({**HELLO, "metadata": {"user_id": user}})


def test_servers_that_the_api_would_call_are_refused_unless_there_are_none() -> None:
    assert "mcp_servers" in fault({**HELLO, "mcp_servers": [{"type": "url"}]})
    assert read({**HELLO, "mcp_servers": []})


def test_what_has_no_effect_is_named() -> None:
    raw = json.dumps({**HELLO, "context_management": {"edits": []}, "service_tier": "auto", "new_thing": 1})
    _, headers = parameters.read(MessagesBody, MESSAGES, raw.encode())
    assert headers["x-roost-ignored"] == "context_management,service_tier,new_thing"


@pytest.mark.parametrize(("body", "table"), [(MessagesBody, MESSAGES), (CountBody, COUNT_TOKENS)])
def test_the_table_has_the_parameters_that_are_read(body: type[Body], table: ParameterTable) -> None:
    assert set(table.named(Use.SUPPORTED)) == set(body.model_fields)


_WHOLE = {
    **HELLO,
    "messages": requests_of("claude-code")[2].body["messages"],
    "system": [{"type": "text", "text": "s"}],
    "tools": [TOOL],
    "tool_choice": {"type": "tool", "name": "read"},
    "metadata": {"user_id": "u"},
    "stop_sequences": ["x"],
    "top_k": 3,
    "output_config": {"format": None},
}


@given(st.sampled_from(places(_WHOLE)), JSON)
def test_a_malformed_body_is_refused_or_gives_a_conversation(path: tuple[Any, ...], value: Any) -> None:
    raw = json.dumps(replaced(_WHOLE, path, value)).encode()
    try:
        conversation = conversation_of(parameters.read(MessagesBody, MESSAGES, raw)[0], {})
    except Refused as refused:
        check_invalid(refused)
        return
    for message in conversation.messages:
        for call in message.tool_calls:
            json.loads(call.arguments_json.encode(), parse_constant=_no_constant)


def check_invalid(refused: Refused) -> None:
    assert refused.reason is Reason.INVALID_REQUEST


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")
