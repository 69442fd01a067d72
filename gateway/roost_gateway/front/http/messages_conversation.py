"""The conversation in the body of POST /v1/messages. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from roost.contract.messages import (
    Format,
    Message,
    MessageRole,
    Sampling,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    ToolDefinition,
)
from roost_gateway.front.http.chat_conversation import split_system
from roost_gateway.front.http.constraints import format_of
from roost_gateway.front.http.headers import naming_of
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
from roost_gateway.front.http.parameters import json_text
from roost_gateway.recognition.conversation import Conversation

_CHOICES = {
    "any": ToolChoiceMode.REQUIRED,
    "tool": ToolChoiceMode.REQUIRED,
    "none": ToolChoiceMode.NONE,
}


def conversation_of(body: CountBody, headers: Mapping[str, str], further: Sequence[str] = ()) -> Conversation:
    """The conversation of a request. `further` are names of headers that name a conversation.

    Raises Refused, INVALID_REQUEST, naming the field.
    """
    user = body.metadata if isinstance(body, MessagesBody) else None
    own = [Message(MessageRole.SYSTEM, block.text) for block in body.system]
    system, messages = split_system([*own, *_messages(body.messages)])
    return Conversation(
        model=body.model,
        system=system,
        tools=tuple(_tools(body)),
        messages=messages,
        sampling=_sampling(body),
        format=_format(body),
        **naming_of(headers, further, user.session_id if user is not None else None, "metadata.user_id"),
    )


def _tools(body: CountBody) -> Iterator[ToolDefinition]:
    for number, tool in enumerate(body.tools or ()):
        if not tool.is_search:
            schema = json_text(tool.input_schema, f"tools[{number}].input_schema")
            yield ToolDefinition(tool.name, tool.description or "", schema)


def _messages(turns: Sequence[Turn]) -> Iterator[Message]:
    names = dict[str, str]()
    for number, turn in enumerate(turns):
        match turn:
            case UserTurn():
                yield from _of_user(turn, names)
            case AssistantTurn():
                yield _of_assistant(turn, names, f"messages[{number}]")
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
                calls.append(ToolCall(block.id, block.name, json_text(block.input, f"{where}.content[{number}].input")))
                names[block.id] = block.name
            case ThinkingBlock():
                pass
    return Message(MessageRole.ASSISTANT, text, tuple(calls))


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
        stop=tuple(body.stop_sequences or ()),
    )


def _format(body: CountBody) -> Format | None:
    choice, output = body.tool_choice, body.output_config
    schema = output.format.schema_ if output is not None and output.format is not None else None
    chosen = ToolChoice(_CHOICES[choice.type], choice.name) if choice is not None and choice.type != "auto" else None
    return format_of(chosen, schema, has_tools=bool(body.tools), field="output_config.format")
