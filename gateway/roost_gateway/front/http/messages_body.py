"""The body of POST /v1/messages and of count_tokens, as the SDKs of Anthropic's API send it. Pure."""

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from roost_gateway.front.http.parameters import Body, ParameterTable, Part, ignored, refused, supported
from roost_gateway.front.http.sampling import Count, Real


def _blocks(content: Any) -> Any:
    """A text as the list of its one block, and no content as an empty list."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [] if content is None else content


class TextBlock(Part):
    type: Literal["text"]
    text: str


class ThinkingBlock(Part):
    """Reasoning that comes back. It is dropped: the log has it."""

    type: Literal["thinking", "redacted_thinking"]


class ToolUseBlock(Part):
    type: Literal["tool_use"]
    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    input: dict[str, Any]


class ToolReferenceBlock(Part):
    """A deferred tool that a client's own search has returned."""

    type: Literal["tool_reference"]
    tool_name: str

    @property
    def text(self) -> str:
        return f"Tool {self.tool_name} can be called."


class ToolResultBlock(Part):
    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1)
    content: Annotated[
        list[Annotated[TextBlock | ToolReferenceBlock, Field(discriminator="type")]], BeforeValidator(_blocks)
    ] = []
    is_error: bool | None = None


Texts = Annotated[list[TextBlock], BeforeValidator(_blocks)]


class UserTurn(Part):
    role: Literal["user"]
    content: Annotated[
        list[Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]], BeforeValidator(_blocks)
    ]


class AssistantTurn(Part):
    role: Literal["assistant"]
    content: Annotated[
        list[Annotated[TextBlock | ToolUseBlock | ThinkingBlock, Field(discriminator="type")]],
        BeforeValidator(_blocks),
    ]


class SystemTurn(Part):
    """A system message in the middle of the list, as Claude Code sends for models that it does not know."""

    role: Literal["system"]
    content: Texts


Turn = Annotated[UserTurn | AssistantTurn | SystemTurn, Field(discriminator="role")]


class ToolBody(Part):
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
        """Whether it searches deferred tools: useless here, where all tools are shown."""
        return self.type is not None and self.type != "custom"


class ToolChoiceBody(Part):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""

    @model_validator(mode="after")
    def _named(self) -> "ToolChoiceBody":
        if (self.type == "tool") != bool(self.name):
            raise ValueError("type `tool` needs the tool's name, and no other type has one")
        return self


class ThinkingBody(Part):
    type: Literal["enabled", "adaptive", "disabled"]
    display: str | None = None


class OutputFormat(Part):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Part):
    format: OutputFormat | None = None


class Metadata(Part):
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
    """The supported parameters of count_tokens."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: Texts = []
    tools: list[ToolBody] | None = None
    tool_choice: ToolChoiceBody | None = None
    thinking: ThinkingBody | None = None
    output_config: OutputConfig | None = None

    @property
    def shows_reasoning(self) -> bool:
        """Whether the answer is to have thinking blocks."""
        return self.thinking is not None and self.thinking.type != "disabled"

    @property
    def omits_reasoning(self) -> bool:
        """Whether thinking blocks are to be without their text."""
        return self.thinking is not None and self.thinking.display == "omitted"


class MessagesBody(CountBody):
    """The supported parameters of /v1/messages."""

    max_tokens: Annotated[Count, Field(ge=1)]
    stream: bool | None = None
    metadata: Metadata | None = None
    stop_sequences: list[str] | None = None
    temperature: Real | None = None
    top_p: Real | None = None
    top_k: Count | None = None


_COUNTED = (
    supported("model", "a pool's name, or that of its model"),
    supported("messages", "text, tool_use and tool_result; thinking is dropped, images are refused"),
    supported("system", "a text or blocks; system messages may also stand anywhere in `messages`"),
    supported("tools", "custom tools, deferred ones too; tools that run at Anthropic are refused"),
    supported("tool_choice", "`disable_parallel_tool_use` has no effect beside `auto`"),
    supported("thinking", "whether the answer shows reasoning, not whether the model thinks"),
    supported("output_config", "`format`, where no tool may be called; `effort` has no effect"),
    ignored("context_management", "the session's log keeps everything"),
    ignored("cache_control", "sessions are cached without marks"),
    ignored("speed", "answers come as fast as they can"),
    refused("mcp_servers", "have the client call MCP servers", harmless=([],)),
)
COUNT_TOKENS = ParameterTable("/v1/messages/count_tokens", _COUNTED)
MESSAGES = ParameterTable(
    "/v1/messages",
    (
        *_COUNTED,
        supported("max_tokens"),
        supported("stream"),
        supported("metadata", "`user_id`, where it is JSON with a `session_id`, as Claude Code's"),
        supported("stop_sequences"),
        supported("temperature"),
        supported("top_p"),
        supported("top_k"),
        ignored("service_tier", "the pool's priority classes decide"),
        ignored("inference_geo", "the pool is where it is"),
        refused("container", "code runs at the client"),
    ),
)
