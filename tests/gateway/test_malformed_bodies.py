"""Whatever a body holds: it is a conversation, or a refusal that names a field."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_gateway.front.http.chat_body import CHAT, ChatBody
from roost_gateway.front.http.chat_conversation import conversation_of
from roost_gateway.front.http.completions import COMPLETIONS, PromptBody
from roost_gateway.front.http.parameters import Body, ParameterTable, read
from roost_gateway.recognition.conversation import Conversation

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(good, good, good, VALUES)


def shaped(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return mostly(st.fixed_dictionaries({}, optional={name: mostly(field) for name, field in fields.items()}))


NAMES = st.sampled_from(["look", "", "a b", "é"])
BLOCKS = st.lists(shaped(type=st.sampled_from(["text", "refusal", "image_url"]), text=st.text(max_size=5)), max_size=3)
CALLS = st.lists(shaped(id=st.text(max_size=5), function=shaped(name=NAMES, arguments=VALUES)), max_size=3)
MESSAGES = st.lists(
    shaped(
        role=st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        content=st.text(max_size=5) | BLOCKS,
        tool_calls=CALLS,
        tool_call_id=st.text(max_size=5),
    ),
    max_size=4,
)
CHOICES = st.sampled_from(["auto", "none", "required"]) | shaped(type=st.just("function"), function=shaped(name=NAMES))
FORMATS = shaped(
    type=st.sampled_from(["text", "json_object", "json_schema"]),
    json_schema=shaped(schema=st.dictionaries(st.text(max_size=5), VALUES, max_size=3)),
)
TOOLS = st.lists(shaped(type=st.just("function"), function=shaped(name=NAMES, parameters=VALUES)), max_size=3)
NUMBERS = ("temperature", "top_p", "top_k", "seed", "max_tokens", "n", "logprobs")
SAMPLING = dict.fromkeys((*NUMBERS, "stop", "logit_bias", "model"), VALUES)


@given(shaped(messages=MESSAGES, tools=TOOLS, tool_choice=CHOICES, response_format=FORMATS, **SAMPLING))
def test_a_chat_body(value: Any) -> None:
    body = taken(ChatBody, CHAT, value)
    if body is not None:
        assert isinstance(conversation(body, {}), Conversation | None)


def conversation(body: ChatBody, headers: Mapping[str, str]) -> Conversation | None:
    try:
        return conversation_of(body, headers)
    except Refused as error:
        return refused(error)


@given(shaped(prompt=st.text(max_size=5) | st.lists(st.text(max_size=5)), **SAMPLING))
def test_a_text_body(value: Any) -> None:
    body = taken(PromptBody, COMPLETIONS, value)
    assert body is None or body.sampling(body.max_tokens).max_tokens == body.max_tokens


def taken(model: type[Body], table: ParameterTable, value: Any) -> Any:
    try:
        return read(model, table, json.dumps(value).encode())[0]
    except Refused as error:
        return refused(error)


def refused(error: Refused) -> None:
    assert error.reason is Reason.INVALID_REQUEST
    assert error.violations
    assert all(field and why for field, why in error.violations)


@given(st.binary(max_size=50))
@pytest.mark.parametrize(("model", "table"), [(ChatBody, CHAT), (PromptBody, COMPLETIONS)])
def test_any_bytes(model: type[Body], table: ParameterTable, raw: bytes) -> None:
    try:
        read(model, table, raw)
    except Refused as error:
        refused(error)
