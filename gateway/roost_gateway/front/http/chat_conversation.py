"""The conversation in a body of `/v1/chat/completions`. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from roost.contract.messages import Message, MessageRole, ToolCall, ToolDefinition
from roost_gateway.front.http.chat_body import ChatBody, ChatMessage, FunctionDefinition
from roost_gateway.front.http.constraints import format_of
from roost_gateway.front.http.headers import naming_of
from roost_gateway.front.http.parameters import json_text
from roost_gateway.recognition.conversation import Conversation

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


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
        **naming_of(headers, further, body.prompt_cache_key),
    )


def split_system(messages: Sequence[Message]) -> tuple[str, tuple[Message, ...]]:
    """Returns the text of the system messages at the beginning, and the messages after them: at least the last one,
    which the model answers."""
    count = 0
    while count < len(messages) - 1 and messages[count].role is MessageRole.SYSTEM:
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
