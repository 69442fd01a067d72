"""What goes into a step: messages, tools, sampling, formats. Frozen values, checked when they are made."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypedDict

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def to_json(value: Any) -> str:
    """JSON text as the SDK sends it. Raises TypeError when `value` is not JSON."""
    return json.dumps(value, ensure_ascii=False)


class MessageRole(StrEnum):
    """Who speaks."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    `parameters` is the JSON schema of its arguments. Raises ValueError when the name is not 1 to 64 letters,
    digits, `_` or `-`, and TypeError when the schema is not JSON.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})

    def __post_init__(self) -> None:
        if not _TOOL_NAME.fullmatch(self.name):
            raise ValueError(f"tool name {self.name!r} must be 1 to 64 letters, digits, `_` or `-`")
        to_json(self.parameters)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made."""

    id: str
    name: str
    arguments_json: str
    """Arguments, as the model wrote them."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments, parsed. Raises ValueError when the model wrote no JSON object (it can, unless constrained)."""
        arguments = json.loads(self.arguments_json)
        if not isinstance(arguments, dict):
            raise ValueError(f"arguments of `{self.name}` are not a JSON object: {self.arguments_json}")
        return arguments


@dataclass(frozen=True, slots=True)
class Message:
    """One turn's content. It is text only: nothing in it ever becomes a control token."""

    role: MessageRole
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls that an assistant made."""
    tool_call_id: str = ""
    """Call that a tool's message answers."""
    name: str = ""
    """Tool that answers."""


def user(content: str) -> Message:
    """A message of the user, or of the agent's own program."""
    return Message(MessageRole.USER, content)


def tool_result(call: ToolCall, content: str | Mapping[str, Any] | Sequence[Any]) -> Message:
    """The result of `call`; anything but a string is sent as JSON. Raises TypeError when it is not JSON."""
    text = content if isinstance(content, str) else to_json(content)
    return Message(MessageRole.TOOL, text, tool_call_id=call.id, name=call.name)


def as_messages(messages: "str | Message | Sequence[Message]") -> tuple[Message, ...]:
    """A step's messages; a string is one user message. Raises ValueError when there is none."""
    if isinstance(messages, str):
        return (user(messages),)
    if isinstance(messages, Message):
        return (messages,)
    if not messages:
        raise ValueError("a step needs at least one message, of the user or of a tool")
    for message in messages:
        if not isinstance(message, Message):
            raise TypeError(f"{message!r} is no Message; make one with `roost.user(…)` or `roost.tool_result(…)`")
    return tuple(messages)


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


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. None takes the model's default; the gateway checks the ranges."""

    temperature: float | None = None
    """0 takes the most likely token."""
    top_p: float | None = None
    """Keeps the smallest set of tokens with at least this probability, in (0, 1]."""
    top_k: int | None = None
    """Keeps the k most likely tokens; 0 keeps all."""
    min_p: float | None = None
    """Drops tokens less likely than this share of the most likely one, in [0, 1]."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    """1 is off."""
    seed: int | None = None
    """Drawn by the gateway, and told with the result, when None."""
    max_tokens: int | None = None
    """The role's limit when None."""
    min_tokens: int | None = None
    stop: Sequence[str] = ()
    """Strings that end the step; they are cut from the text."""
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id to what is added to its logit."""
    logprobs: int | None = None
    """Alternatives to report with each token, 0 to 20."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            raise TypeError("stop is a list of strings, not one string: use stop=[…]")


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The output must be JSON that satisfies this schema, a mapping or JSON text."""

    schema: Mapping[str, Any] | str

    @property
    def text(self) -> str:
        return self.schema if isinstance(self.schema, str) else to_json(self.schema)


class ToolChoiceMode(StrEnum):
    """How tools are used."""

    AUTO = "auto"
    """The model decides."""
    NONE = "none"
    """No tool is called: text that looks like a call stays text."""
    REQUIRED = "required"
    """The output is one call whose arguments satisfy the tool's schema."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """How the session's tools are used in a step. `name` is the one tool to call, and goes with REQUIRED only."""

    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    name: str = ""

    def __post_init__(self) -> None:
        if self.name and self.mode is not ToolChoiceMode.REQUIRED:
            raise ValueError(f"ToolChoice(name={self.name!r}) goes with mode=ToolChoiceMode.REQUIRED only")


Format = JsonSchema | ToolChoice
"""What constrains a step's output."""
