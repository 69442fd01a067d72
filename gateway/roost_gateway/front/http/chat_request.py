"""The body of `/v1/chat/completions`, and the conversation that it stands for."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from roost.contract.messages import (
    Message,
    MessageRole,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    ToolDefinition,
    to_json,
)
from roost_gateway.front.http.constraints import format_of
from roost_gateway.front.http.headers import family_of, is_retry, role_of
from roost_gateway.front.http.parameters import MAX_MESSAGES, Part, json_text
from roost_gateway.front.http.sampling import CompletionBody, Count
from roost_gateway.recognition.conversation import Conversation

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
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


def conversation_of(body: ChatBody, headers: Mapping[str, str], further: Sequence[str] = ()) -> Conversation:
    """Returns the conversation of a request; `further` are session headers of the configuration.

    Raises Refused: INVALID_REQUEST.
    """
    names: dict[str, str] = {}
    system, messages = split_system([_message(message, names) for message in body.messages])
    return Conversation(
        model=body.model,
        system=system,
        tools=tuple(_definition(number, tool.function) for number, tool in enumerate(body.tools or ())),
        messages=messages,
        sampling=body.sampling(body.max_completion_tokens or body.max_tokens),
        format=format_of(body.tool_choice, body.response_format, has_tools=bool(body.tools), field="response_format"),
        family=family_of(headers, further, body.prompt_cache_key),
        is_retry=is_retry(headers),
        role=role_of(headers),
    )


def split_system(messages: Sequence[Message]) -> tuple[str, tuple[Message, ...]]:
    """Returns the text of the system messages at the beginning, and the messages after them."""
    count = 0
    while count < len(messages) and messages[count].role is MessageRole.SYSTEM:
        count += 1
    return "\n\n".join(message.content for message in messages[:count]), tuple(messages[count:])


def _message(message: ChatMessage, names: dict[str, str]) -> Message:
    """`names` maps the calls so far to their tools, since results do not name them."""
    if message.role in ("developer", "system"):
        return Message(MessageRole.SYSTEM, message.text)
    if message.role == "tool":
        call = message.tool_call_id or ""
        return Message(MessageRole.TOOL, message.text, tool_call_id=call, name=names.get(call, ""))
    if message.role == "user":
        return Message(MessageRole.USER, message.text)
    calls = [ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    names.update({call.id: call.name for call in calls})
    return Message(MessageRole.ASSISTANT, message.text, tuple(calls))


def _definition(number: int, function: FunctionDefinition) -> ToolDefinition:
    schema = json_text(function.parameters or NO_PARAMETERS, f"tools[{number}].function.parameters")
    return ToolDefinition(function.name, function.description or "", schema)
