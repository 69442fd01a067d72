"""The body of POST /v1/messages and of count_tokens, as the SDKs of Anthropic's API send it. Pure."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

COUNT_LIMIT = 2**32


class Body(BaseModel):
    """A part of a body. Fields that it does not name are ignored: `cache_control`, `citations` and the like."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


def _blocks(content: Any) -> Any:
    """A text as the list of its one block, and no content as an empty list."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [] if content is None else content


class TextBlock(Body):
    type: Literal["text"]
    text: str


class ThinkingBlock(Body):
    """Reasoning that comes back. It is dropped: the log has it."""

    type: Literal["thinking", "redacted_thinking"]


class ToolUseBlock(Body):
    type: Literal["tool_use"]
    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    input: dict[str, Any]


class ToolReferenceBlock(Body):
    """A deferred tool that a client's own search has returned."""

    type: Literal["tool_reference"]
    tool_name: str

    @property
    def text(self) -> str:
        return f"Tool {self.tool_name} can be called."


class ToolResultBlock(Body):
    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1)
    content: Annotated[
        list[Annotated[TextBlock | ToolReferenceBlock, Field(discriminator="type")]], BeforeValidator(_blocks)
    ] = []
    is_error: bool | None = None


Texts = Annotated[list[TextBlock], BeforeValidator(_blocks)]


class UserTurn(Body):
    role: Literal["user"]
    content: Annotated[
        list[Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]], BeforeValidator(_blocks)
    ]


class AssistantTurn(Body):
    role: Literal["assistant"]
    content: Annotated[
        list[Annotated[TextBlock | ToolUseBlock | ThinkingBlock, Field(discriminator="type")]],
        BeforeValidator(_blocks),
    ]


class SystemTurn(Body):
    """A system message in the middle of the list, as Claude Code sends for models that it does not know."""

    role: Literal["system"]
    content: Texts


Turn = Annotated[UserTurn | AssistantTurn | SystemTurn, Field(discriminator="role")]


class ToolBody(Body):
    """A tool. `defer_loading` is ignored: deferred tools are shown to the model like the others."""

    type: str | None = None
    name: str = ""
    description: str | None = None
    input_schema: dict[str, Any] = {}

    @field_validator("type")
    @classmethod
    def _custom(cls, value: str | None) -> str | None:
        if value not in (None, "custom") and not value.startswith("tool_search_tool_"):
            raise ValueError(f"{value!r} runs at Anthropic; only custom tools can be used here")
        return value

    @property
    def is_search(self) -> bool:
        """Whether it searches deferred tools, which nobody needs where all tools are shown."""
        return self.type is not None and self.type != "custom"


class ToolChoiceBody(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""

    @model_validator(mode="after")
    def _named(self) -> "ToolChoiceBody":
        if (self.type == "tool") != bool(self.name):
            raise ValueError("type `tool` needs the tool's name, and no other type has one")
        return self


class ThinkingBody(Body):
    type: Literal["enabled", "adaptive", "disabled"]
    display: str | None = None


class OutputFormat(Body):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    format: OutputFormat | None = None


class Metadata(Body):
    user_id: str | None = None

    @property
    def session_id(self) -> str:
        """The session that Claude Code names in a JSON text; empty without one."""
        try:
            user = json.loads(self.user_id or "")
        except (ValueError, RecursionError):
            return ""
        session = user.get("session_id") if isinstance(user, dict) else None
        return session if isinstance(session, str) else ""


class CountBody(Body):
    """What count_tokens takes of the body."""

    model: str
    messages: list[Turn] = Field(min_length=1)
    system: Texts = []
    tools: list[ToolBody] = []
    tool_choice: ToolChoiceBody | None = None
    thinking: ThinkingBody | None = None
    output_config: OutputConfig | None = None


class MessagesBody(CountBody):
    max_tokens: int = Field(ge=1, lt=COUNT_LIMIT)
    stream: bool = False
    metadata: Metadata | None = None
    stop_sequences: list[str] = []
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(None, ge=0, lt=COUNT_LIMIT)
