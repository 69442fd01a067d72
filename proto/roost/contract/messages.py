"""The input of a step: messages, tools, sampling, formats. Frozen values, checked when they are created. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from numbers import Integral, Real
from typing import Any, Self

TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
"""What the Model Context Protocol recommends."""


def to_json(value: Any) -> str:
    """JSON text as the SDK sends it. Raises TypeError when `value` is not JSON."""
    return json.dumps(value, ensure_ascii=False)


class MessageRole(StrEnum):
    """Who speaks."""

    UNSPECIFIED = "unspecified"
    """Not given, or a role that this version does not know: no step may have it."""
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    `parameters` is the JSON schema of its arguments. Raises ValueError when the name is not 1 to 128 letters,
    digits, `_`, `-` or `.`, and TypeError when the schema is not JSON.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})

    def __post_init__(self) -> None:
        if not TOOL_NAME.fullmatch(self.name):
            raise ValueError(f"tool name {self.name!r} must be 1 to 128 letters, digits, `_`, `-` or `.`")
        to_json(self.parameters)


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool as its client sent it, not checked yet. The prompt is rendered from `parameters_json`, so the text is kept
    exactly as it came."""

    name: str
    description: str
    parameters_json: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made."""

    id: str
    name: str
    arguments_json: str
    """Arguments, as the model wrote them."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Parsed arguments. Raises ValueError when an unconstrained model did not write a JSON object."""
        arguments = json.loads(self.arguments_json)
        if not isinstance(arguments, dict):
            raise ValueError(f"arguments of `{self.name}` are not a JSON object: {self.arguments_json}")
        return arguments


@dataclass(frozen=True, slots=True)
class Message:
    """One turn's content. It is text only: nothing in it ever becomes a control token.

    Raises ValueError when the role is unknown or the content cannot be encoded as UTF-8, and TypeError when the content
    is not text.
    """

    role: MessageRole
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls that an assistant made."""
    tool_call_id: str = ""
    """Call that a tool's message answers."""
    name: str = ""
    """Tool that answers."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "role", MessageRole(self.role))
        if not isinstance(self.content, str):
            raise TypeError(f"a message's content is text, not {type(self.content).__name__}: {self.content!r:.80}")
        try:
            self.content.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"a message's content is not UTF-8 text: {error.reason} at {error.start}") from None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. None takes the model's default; the gateway checks the ranges.

    Models have defaults for temperature, top_p, top_k, min_p and repetition_penalty. Without one a field is off, and
    temperature is 0.

    Raises TypeError when a value is not a number, and ValueError when a count is negative or does not fit its field.
    """

    temperature: float | None = None
    """0 takes the most likely token."""
    top_p: float | None = None
    """Keeps the smallest set of tokens with at least this probability, in (0, 1]."""
    top_k: int | None = None
    """Keeps the k most likely tokens; 0 keeps all."""
    min_p: float | None = None
    """Drops tokens whose probability is less than this share of the most likely token's, in [0, 1]."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    """1 is off."""
    seed: int | None = None
    """Drawn by the gateway when None, and reported with the result."""
    max_tokens: int | None = None
    """The role's limit when None."""
    min_tokens: int | None = None
    stop: Sequence[str] = ()
    """Strings that end the step. They are not part of the text."""
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Maps token ids to what is added to their logits."""
    logprobs: int | None = None
    """Alternatives to report with each token, 0 to 20."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            raise TypeError("stop is a list of strings, not one string: use stop=[…]")
        for name in _REALS:
            _check_real(name, getattr(self, name))
        for name, bits in _COUNTS.items():
            _check_count(name, getattr(self, name), bits)
        for token_id in self.stop_token_ids:
            _check_count("stop_token_ids", token_id)
        for token_id, bias in self.logit_bias.items():
            _check_count("logit_bias", token_id)
            _check_real(f"logit_bias[{token_id}]", bias)


_REALS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
_COUNTS = {"top_k": 32, "seed": 64, "max_tokens": 32, "min_tokens": 32, "logprobs": 32}
"""Bits of the fields on the wire."""


def _check_real(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, Real) or isinstance(value, bool)):
        raise TypeError(f"{name} is a number, not {value!r}")


def _check_count(name: str, value: object, bits: int = 32) -> None:
    if value is None:
        return
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} is a whole number, not {value!r}")
    if not 0 <= int(value) < 1 << bits:
        raise ValueError(f"{name} is a whole number from 0 to 2**{bits} - 1, not {value}")


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The output must be JSON that satisfies this schema, a mapping or JSON text. Raises TypeError for others."""

    schema: Mapping[str, Any] | str

    def __post_init__(self) -> None:
        if not isinstance(self.schema, Mapping | str):
            raise TypeError(f"a JSON schema is a mapping or JSON text, not {self.schema!r:.80}")
        _ = self.text

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
    """How the session's tools are used in a step. `name` is the only tool that may be called; it goes with REQUIRED.

    Raises ValueError for an unknown mode, or a name without REQUIRED.
    """

    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", ToolChoiceMode(self.mode))
        if self.name and self.mode is not ToolChoiceMode.REQUIRED:
            raise ValueError(f"ToolChoice(name={self.name!r}) goes with mode=ToolChoiceMode.REQUIRED only")

    @classmethod
    def unchecked(cls, mode: ToolChoiceMode, name: str) -> Self:
        """A choice as a client sent it; `requests.step` says what is wrong with it."""
        choice = object.__new__(cls)
        object.__setattr__(choice, "mode", mode)
        object.__setattr__(choice, "name", name)
        return choice


Format = JsonSchema | ToolChoice
"""What constrains a step's output."""
