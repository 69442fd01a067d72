"""Messages and tools as rendering sees them. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roost.v1 import session_service_pb2 as api
from roost_worker.render.errors import RenderError

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made. `arguments_json` is JSON text."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn's message. Raises RenderError for an unknown role."""

    role: str
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = field(default=())
    tool_call_id: str = ""
    name: str = ""
    written_calls: str = ""
    """The calls as the model writes them, for the templates of formats."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise RenderError(f"role {self.role!r} is unknown; use one of {', '.join(ROLES)}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters_json` is a JSON schema, as text."""

    name: str
    description: str = ""
    parameters_json: str = "{}"


def message_of(value: "Message | api.Message") -> Message:
    """Convert a protobuf message; return a `Message` unchanged. Raise RenderError for an unspecified role."""
    if isinstance(value, Message):
        return value
    role = api.MessageRole.Name(value.role).removeprefix("MESSAGE_ROLE_").lower()
    calls = tuple(ToolCall(call.id, call.name, call.arguments_json) for call in value.tool_calls)
    return Message(role, value.content, calls, value.tool_call_id, value.name)


def tool_of(value: "Tool | api.Tool") -> Tool:
    """Convert a protobuf tool; return a `Tool` unchanged."""
    return value if isinstance(value, Tool) else Tool(value.name, value.description, value.parameters_json or "{}")


def template_message(message: Message) -> dict[str, Any]:
    """Return the message as chat templates expect it (OpenAI's format, but arguments as an object)."""
    document: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        document["tool_calls"] = [_template_call(call) for call in message.tool_calls]
    if message.written_calls:
        document["written_calls"] = message.written_calls
    if message.tool_call_id:
        document["tool_call_id"] = message.tool_call_id
    if message.name:
        document["name"] = message.name
    return document


def _template_call(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments_json or "{}")
    except (ValueError, RecursionError):
        arguments = call.arguments_json
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Any]] | None:
    """Return the tools as chat templates expect them, None without tools. Raise RenderError for an invalid schema."""
    return [_template_tool(tool) for tool in tools] or None


def _template_tool(tool: Tool) -> dict[str, Any]:
    try:
        parameters = json.loads(tool.parameters_json or "{}")
    except ValueError as error:
        raise RenderError(f"tool {tool.name!r}: parameters_json is not JSON: {error}") from error
    if parameters is True:  # any object, as without a schema
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise RenderError(f"tool {tool.name!r}: parameters_json must be a JSON schema (an object)")
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}
