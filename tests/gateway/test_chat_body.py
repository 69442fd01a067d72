"""What a body of /v1/chat/completions says, as a conversation. Clients are named where a rule is theirs."""

import json
from typing import Any

import pytest

from roost.contract.messages import JsonSchema, Message, MessageRole, ToolCall, ToolChoice, ToolChoiceMode
from roost.contract.refused import Refused
from roost_gateway.front.http.chat_body import CHAT, ChatBody
from roost_gateway.front.http.chat_conversation import conversation_of
from roost_gateway.front.http.parameters import read
from roost_gateway.recognition.conversation import Conversation
from wire_requests import requests_of

CLIENTS = (
    *("aisdk-compatible", "langgraph", "mini-swe-agent", "openai-agents-chat", "opencode", "opencode-subagent", "pi"),
    *("pydantic-ai", "sdk-openai", "smolagents"),
)
USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def conversation(headers: dict[str, str] | None = None, **body: Any) -> Conversation:
    request, _ = read(ChatBody, CHAT, json.dumps({"messages": [USER], **body}).encode())
    return conversation_of(request, headers or {})


def violations(**body: Any) -> dict[str, str]:
    with pytest.raises(Refused) as error:
        conversation(**body)
    return dict(error.value.violations)


@pytest.mark.parametrize("client", CLIENTS)
def test_every_request_of_the_wire_record_is_taken(client: str) -> None:
    for request in requests_of(client):
        body, _ = read(ChatBody, CHAT, request.raw)
        conversation = conversation_of(body, request.headers)
        spoken = [message for message in request.body["messages"] if message["role"] not in ("system", "developer")]
        assert [message.role.value for message in conversation.messages] == [message["role"] for message in spoken]
        assert [tool.name for tool in conversation.tools] == [
            tool["function"]["name"] for tool in request.body.get("tools", ())
        ]
        calls = [call.id for message in conversation.messages for call in message.tool_calls]
        results = [message for message in conversation.messages if message.role is MessageRole.TOOL]
        assert {result.tool_call_id for result in results} <= set(calls)
        assert all(result.name for result in results)


def test_the_first_system_and_developer_texts_are_the_system_and_later_ones_stay() -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
        USER,
        {"role": "system", "content": "Now be long."},
    ]
    result = conversation(messages=messages)
    assert result.system == "Be short.\n\nBe kind."
    assert result.messages == (Message(MessageRole.USER, "hello"), Message(MessageRole.SYSTEM, "Now be long."))


def test_a_system_text_alone_is_what_the_model_answers() -> None:
    """As a prompt of LangChain's that has one template."""
    result = conversation(
        messages=[{"role": "developer", "content": "Be short."}, {"role": "system", "content": "Hi."}]
    )
    assert (result.system, result.messages) == ("Be short.", (Message(MessageRole.SYSTEM, "Hi."),))


def test_blocks_of_text_are_paragraphs_of_users_and_one_text_of_the_model() -> None:
    blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "user", "content": blocks}, {"role": "assistant", "content": blocks}, USER]
    assert [message.content for message in conversation(messages=messages).messages] == ["a\nb", "ab", "hello"]


@pytest.mark.parametrize("text", [{"content": None}, {"content": ""}, {}, {"content": []}])
def test_a_call_without_text_has_no_content_however_the_client_says_it(text: dict[str, Any]) -> None:
    """null: openai-agents; "": OpenCode; left out: LiteLLM."""
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
    echo = {"role": "assistant", "reasoning_content": "Hm.", "tool_calls": [call], **text}
    messages = [USER, echo, {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "seen"}]}]
    assert conversation(messages=messages).messages[1:] == (
        Message(MessageRole.ASSISTANT, "", (ToolCall("c1", "look", '{"x": 1}'),)),
        Message(MessageRole.TOOL, "seen", tool_call_id="c1", name="look"),
    )


def test_arguments_may_be_an_object() -> None:
    call = {"id": "c1", "function": {"name": "look", "arguments": {"x": "é"}}}
    messages = [USER, {"role": "assistant", "tool_calls": [call]}, USER]
    assert conversation(messages=messages).messages[1].tool_calls == (ToolCall("c1", "look", '{"x": "é"}'),)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", None),
        (None, None),
        ("none", ToolChoice(ToolChoiceMode.NONE)),
        ("required", ToolChoice(ToolChoiceMode.REQUIRED)),
        ({"type": "function", "function": {"name": "look"}}, ToolChoice(ToolChoiceMode.REQUIRED, "look")),
    ],
)
def test_the_choice_of_tools(choice: object, expected: ToolChoice | None) -> None:
    assert conversation(tools=[TOOL], tool_choice=choice).format == expected


def test_no_tools_need_no_choice_of_none() -> None:
    assert conversation(tool_choice="none").format is None


@pytest.mark.parametrize(
    ("format_", "schema"),
    [
        ({"type": "json_object"}, '{"type": "object"}'),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}, '{"type": "integer"}'),
    ],
)
def test_a_schema_constrains_the_reply(format_: object, schema: str) -> None:
    assert conversation(response_format=format_).format == JsonSchema(schema)
    assert conversation(response_format=format_, tools=[TOOL], tool_choice="none").format == JsonSchema(schema)
    assert conversation(response_format={"type": "text"}).format is None


def test_a_schema_beside_tools_that_may_be_called_is_refused() -> None:
    assert "tool_choice" in violations(response_format={"type": "json_object"}, tools=[TOOL])["response_format"]


def test_sampling_is_the_models_own_unless_it_is_asked_for() -> None:
    plain = conversation().sampling
    assert (plain.temperature, plain.max_tokens, plain.seed, tuple(plain.stop)) == (None, None, None, ())
    asked = conversation(
        temperature=1, max_tokens=5, max_completion_tokens=7, seed=-1, stop="END", top_k=-1, logit_bias={"12": -1}
    ).sampling
    assert (asked.temperature, asked.max_tokens, asked.seed, asked.top_k) == (1.0, 7, 2**64 - 1, 0)
    assert (tuple(asked.stop), asked.logit_bias) == (("END",), {12: -1.0})


def test_identity_comes_from_headers_before_the_body() -> None:
    assert conversation(prompt_cache_key="key").family == "key"
    both = conversation({"x-session-id": "ses_1", "x-stainless-retry-count": "1"}, prompt_cache_key="key")
    assert (both.family, both.is_retry) == ("ses_1", True)


@pytest.mark.parametrize(
    ("body", "field", "why"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [USER] * 10_001}, "messages", "at most 10000"),
        ({"messages": "hello"}, "messages", "array"),
        ({"messages": [{"role": "robot"}]}, "messages[0].role", "assistant"),
        ({"messages": [USER, {"role": "user", "content": 3}]}, "messages[1].content", "blocks of text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
            "image_url",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": 1}]}]}, "messages[0].tool_calls[0].id", "string"),
        ({"temperature": "warm"}, "temperature", "number"),
        ({"max_tokens": -1}, "max_tokens", "greater"),
        ({"seed": 1.5}, "seed", "integer"),
        ({"stop": [1]}, "stop[0]", "string"),
        ({"logit_bias": {"word": 1}}, "logit_bias.word.[key]", "integer"),
        ({"tool_choice": "maybe"}, "tool_choice", "required"),
        ({"response_format": {"type": "yaml"}}, "response_format", "json_schema"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "function"),
        ({"stream": "yes"}, "stream", "boolean"),
        ({"prompt_cache_key": "k" * 257}, "prompt_cache_key", "256"),
        ({"n": 2}, "n", "n times"),
        ({"logprobs": True}, "logprobs", "gRPC"),
        ({"functions": [{}]}, "functions", "tools"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(body: dict[str, Any], field: str, why: str) -> None:
    assert why in violations(**body)[field]


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"messages": [{"role": "user", "content": "\\ud800"}]}']
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused) as error:
        read(ChatBody, CHAT, raw)
    assert [field for field, _ in error.value.violations] == ["body"]


def test_numbers_that_json_lacks_are_refused_where_they_would_be_rendered() -> None:
    raw = b'{"messages": [{"role": "user"}], "tools": [{"type": "function", "function": %s}]}'
    request, _ = read(ChatBody, CHAT, raw % b'{"name": "f", "parameters": {"maximum": Infinity}}')
    with pytest.raises(Refused, match=r"tools\[0\]\.function\.parameters"):
        conversation_of(request, {})
