"""Shorthands for a step's messages and sampling."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from roost.contract.messages import Message, MessageRole, ToolCall, to_json


def user(content: str) -> Message:
    """A message from the user, or from the agent's own program."""
    return Message(MessageRole.USER, content)


def tool_result(call: ToolCall, content: str | Mapping[str, Any] | Sequence[Any]) -> Message:
    """The result of `call`. Anything but a string is sent as JSON; raises TypeError for what is not JSON."""
    text = content if isinstance(content, str) else to_json(content)
    return Message(MessageRole.TOOL, text, tool_call_id=call.id, name=call.name)


def as_messages(messages: "str | Message | Sequence[Message]") -> tuple[Message, ...]:
    """A step's messages; a string is one user message. Raises ValueError when there are none."""
    if isinstance(messages, str):
        return (user(messages),)
    if isinstance(messages, Message):
        return (messages,)
    if not messages:
        raise ValueError("a step needs at least one message, of the user, of a tool or of the system")
    for message in messages:
        if not isinstance(message, Message):
            raise TypeError(f"{message!r} is not a Message; make one with `roost.user(…)` or `roost.tool_result(…)`")
    return tuple(messages)


def as_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Labels as they are sent. Raises TypeError when one is not a string."""
    for key, value in (labels or {}).items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"labels are texts, not {key!r}: {value!r}")
    return dict(labels or {})


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as keywords of `Session.step`."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    seed: int
    max_tokens: int
    min_tokens: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    logit_bias: Mapping[int, float]
    logprobs: int
