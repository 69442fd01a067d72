"""The body of `/v1/chat/completions`, and what becomes of its parameters."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from roost.contract.messages import ToolChoice, ToolChoiceMode, to_json
from roost_gateway.front.http.parameters import MAX_MESSAGES, ParameterTable, Part, ignored, refused, supported
from roost_gateway.front.http.sampling import COMPLETION_ROWS, CompletionBody, Count

_OTHER_BLOCK = "`{kind}` is not supported: models here read text only"


class ContentPart(Part):
    """A block of a message's content."""

    type: str
    text: str | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _is_text(self) -> "ContentPart":
        if self.type not in ("text", "refusal"):
            raise PydanticCustomError("block", _OTHER_BLOCK, {"kind": self.type[:50]})
        return self


def _blocks(value: object) -> object:
    if value is None:
        return []
    if not isinstance(value, str | list):
        raise PydanticCustomError("content", "must be text, or a list of blocks of text")
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Content = Annotated[list[ContentPart], BeforeValidator(_blocks)]
"""Text, a list of blocks, or null."""


class Function(Part):
    """A function that a call names."""

    name: str
    arguments: Annotated[str, BeforeValidator(lambda value: to_json(value) if isinstance(value, dict) else value)] = ""


class Call(Part):
    """A call in an assistant's message."""

    id: str
    function: Function


class ChatMessage(Part):
    """A message of the history. Reasoning that comes back in it is not read."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Content = Field(default_factory=list)
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The content. Blocks of an assistant are parts of one text, blocks of others are paragraphs."""
        between = "" if self.role == "assistant" else "\n"
        return between.join(block.text or block.refusal or "" for block in self.content)


class FunctionDefinition(Part):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ChatTool(Part):
    """A tool. Whether its arguments are constrained is the model's matter, so `strict` is not read."""

    type: Literal["function"]
    function: FunctionDefinition


def _tool_choice(value: object) -> ToolChoice | None:
    if value is None or value == "auto":
        return None
    if value in ("none", "required"):
        return ToolChoice(ToolChoiceMode(str(value)))
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    if isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"]:
        return ToolChoice(ToolChoiceMode.REQUIRED, function["name"])
    raise PydanticCustomError("choice", 'must be "auto", "none", "required", or an object that names a function')


def _response_format(value: object) -> Mapping[str, Any] | None:
    kind = value.get("type") if isinstance(value, dict) else None
    if value is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    schema = value.get("json_schema") if isinstance(value, dict) and kind == "json_schema" else None
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        return dict(schema["schema"])
    raise PydanticCustomError("format", "type must be text, json_object, or json_schema with json_schema.schema")


class ChatBody(CompletionBody):
    """The supported parameters of `/v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: list[ChatTool] | None = None
    tool_choice: Annotated[ToolChoice | None, PlainValidator(_tool_choice)] = None
    response_format: Annotated[Mapping[str, Any] | None, PlainValidator(_response_format)] = None
    """The schema of the output."""
    max_completion_tokens: Count | None = None


CHAT = ParameterTable(
    "/v1/chat/completions",
    (
        supported(
            "messages", "text, calls and results; blocks of text are joined; images, audio and files are refused"
        ),
        supported(
            "tools", "type `function`; `strict` is not needed: arguments are constrained wherever the model's are"
        ),
        supported("tool_choice", "`auto`, `none`, `required`, or a named function"),
        supported("response_format", "`text`, `json_object`, `json_schema`; beside tools only with tool_choice `none`"),
        supported("max_completion_tokens", "counts before `max_tokens`"),
        *COMPLETION_ROWS,
        ignored("parallel_tool_calls", "with `false`, too, a reply may have several calls"),
        ignored("reasoning_effort", "the model reasons as its template says"),
        ignored("prediction", "it only makes replies faster"),
        ignored("verbosity", "say it in the prompt"),
        refused("n", "send the request n times, each with another `seed`", harmless=(1,)),
        refused("logprobs", "the gRPC API has log-probabilities", harmless=(False,)),
        refused("top_logprobs", "the gRPC API has log-probabilities", harmless=(0,)),
        refused("functions", "send them as `tools`", harmless=([],)),
        refused("function_call", "send `tool_choice`", harmless=("auto", "none")),
        refused("modalities", "replies are text", harmless=(["text"],)),
        refused("audio", "replies are text"),
        refused("web_search_options", "give the model a tool that searches"),
    ),
)
