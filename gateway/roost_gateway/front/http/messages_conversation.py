"""The conversation in the body of POST /v1/messages. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from roost.contract.messages import (
    Format,
    JsonSchema,
    Message,
    MessageRole,
    Sampling,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    ToolDefinition,
)
from roost.contract.refused import invalid
from roost_gateway.front.http.messages_body import (
    AssistantTurn,
    CountBody,
    MessagesBody,
    SystemTurn,
    TextBlock,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
    UserTurn,
)
from roost_gateway.recognition.conversation import Conversation

_CHOICES = {
    "auto": ToolChoiceMode.AUTO,
    "any": ToolChoiceMode.REQUIRED,
    "tool": ToolChoiceMode.REQUIRED,
    "none": ToolChoiceMode.NONE,
}


def conversation_of(body: CountBody, *, family: str = "", is_retry: bool = False) -> Conversation:
    """The conversation of a body. Raises Refused, INVALID_REQUEST, naming the field."""
    head, turns = _split(body.messages)
    if isinstance(body.messages[-1], AssistantTurn):
        raise invalid([("messages", "the last message is the assistant's: an answer cannot be begun for the model")])
    texts = [block.text for block in body.system] + [block.text for turn in head for block in turn.content]
    return Conversation(
        model=body.model,
        system="\n\n".join(texts),
        tools=tuple(_tools(body)),
        messages=tuple(_messages(turns, first=len(head))),
        sampling=_sampling(body),
        format=_format(body),
        family=family,
        is_retry=is_retry,
    )


def _split(turns: Sequence[Turn]) -> tuple[list[SystemTurn], Sequence[Turn]]:
    """The system messages before the first other message, and what follows."""
    head = list[SystemTurn]()
    for turn in turns:
        if not isinstance(turn, SystemTurn):
            break
        head.append(turn)
    return head, turns[len(head) :]


def _tools(body: CountBody) -> Iterator[ToolDefinition]:
    for number, tool in enumerate(body.tools):
        if not tool.is_search:
            schema = _json(tool.input_schema, f"tools.{number}.input_schema")
            yield ToolDefinition(tool.name, tool.description or "", schema)


def _messages(turns: Sequence[Turn], first: int) -> Iterator[Message]:
    """The messages of turns, which are numbered from `first` in the body."""
    names = dict[str, str]()
    for number, turn in enumerate(turns, start=first):
        match turn:
            case UserTurn():
                yield from _of_user(turn, names)
            case AssistantTurn():
                yield _of_assistant(turn, names, f"messages.{number}")
            case SystemTurn():
                yield Message(MessageRole.SYSTEM, _joined(turn.content))


def _of_user(turn: UserTurn, names: Mapping[str, str]) -> Iterator[Message]:
    """A tool's message for each result, and a user's for the texts between them."""
    texts = list[TextBlock]()
    for block in turn.content:
        if isinstance(block, TextBlock):
            texts.append(block)
            continue
        if texts:
            yield Message(MessageRole.USER, _joined(texts))
            texts = []
        yield _of_result(block, names)
    if texts or not turn.content:
        yield Message(MessageRole.USER, _joined(texts))


def _of_result(block: ToolResultBlock, names: Mapping[str, str]) -> Message:
    content = _joined(block.content) or ("error" if block.is_error else "")
    name = names.get(block.tool_use_id, "")
    return Message(MessageRole.TOOL, content, tool_call_id=block.tool_use_id, name=name)


def _of_assistant(turn: AssistantTurn, names: dict[str, str], where: str) -> Message:
    text, calls = "", list[ToolCall]()
    for number, block in enumerate(turn.content):
        match block:
            case TextBlock():
                text += block.text
            case ToolUseBlock():
                calls.append(ToolCall(block.id, block.name, _json(block.input, f"{where}.content.{number}.input")))
                names[block.id] = block.name
            case ThinkingBlock():
                pass
    return Message(MessageRole.ASSISTANT, text, tuple(calls))


def _json(value: Mapping[str, Any], where: str) -> str:
    """JSON text of a part of the body. Raises Refused for numbers that JSON does not have, or not of that length."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise invalid([(where, f"is not JSON: {error}")]) from error


def _joined(blocks: Sequence[TextBlock | ToolReferenceBlock]) -> str:
    return "\n".join(block.text for block in blocks)


def _sampling(body: CountBody) -> Sampling:
    if not isinstance(body, MessagesBody):
        return Sampling()
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        max_tokens=body.max_tokens,
        stop=tuple(body.stop_sequences),
    )


def _format(body: CountBody) -> Format | None:
    choice, output = body.tool_choice, body.output_config
    if output is not None and output.format is not None:
        if body.tools and (choice is None or choice.type != "none"):
            raise invalid([("output_config.format", "goes with no tools, or with tool_choice none")])
        return JsonSchema(_json(output.format.schema_, "output_config.format.schema"))
    if choice is None or choice.type == "auto":
        return None
    return ToolChoice(_CHOICES[choice.type], choice.name)
