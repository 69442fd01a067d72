"""The conversation in the body of POST /v1/responses. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from roost.contract.messages import Message, MessageRole, Sampling, ToolCall, ToolDefinition
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, invalid
from roost.contract.sessions import LoggedStep
from roost.contract.steps import StepName
from roost.store.kept_conversations import KeptConversation
from roost_gateway.front.http.chat_conversation import NO_PARAMETERS, split_system
from roost_gateway.front.http.constraints import format_of
from roost_gateway.front.http.headers import naming_of
from roost_gateway.front.http.ids import CALL, REASONING, TEXT, AnswerName, name_of
from roost_gateway.front.http.parameters import json_text
from roost_gateway.front.http.responses_body import (
    CallItem,
    Item,
    MessageItem,
    OutputItem,
    ReasoningItem,
    ReferenceItem,
    ResponsesBody,
    joined,
)
from roost_gateway.recognition.conversation import Conversation

Log = Mapping[StepName, LoggedStep]
"""Committed steps that items of a request refer to."""


def references_of(body: ResponsesBody) -> list[AnswerName]:
    """The parts of earlier answers that items refer to by id, but for reasoning, which is dropped unread.

    Raises Refused: SESSION_NOT_FOUND for ids that no answer has.
    """
    return [_named(item.id) for item in body.input if isinstance(item, ReferenceItem) and not _is_reasoning(item)]


def previous_of(body: ResponsesBody, kept: KeptConversation | None = None) -> StepName | None:
    """The answer that the request continues. Raises Refused: SESSION_NOT_FOUND for an id that no answer has,
    INVALID_REQUEST for one beside a conversation, which has its own."""
    if kept is None:
        return _named(body.previous_response_id).step if body.previous_response_id else None
    if body.previous_response_id:
        raise invalid([("previous_response_id", "leave it out: the conversation goes on after its own last response")])
    return StepName(*kept.next.step) if kept.next.session_id else None


def conversation_of(
    body: ResponsesBody,
    log: Log,
    headers: Mapping[str, str],
    further: Sequence[str] = (),
    kept: KeptConversation | None = None,
) -> Conversation:
    """The conversation of a request. `further` are names of headers that name a conversation, `log` has the steps of
    `references_of`, `kept` is the conversation that the request names, if it was created here.

    Raises Refused: INVALID_REQUEST, naming the field; SESSION_NOT_FOUND.
    """
    previous, system = previous_of(body, kept), body.instructions or ""
    waiting = kept.messages if kept is not None else ()
    messages = tuple(_merged([*waiting, *_without_last_answer(messages_of(body.input, log))]))
    if previous is None:  # else what the input begins with is said in the middle of the conversation
        own = [Message(MessageRole.SYSTEM, system)] if system else []
        system, messages = split_system([*own, *messages])
    body_id, field = body.prompt_cache_key, "prompt_cache_key"
    if body.conversation is not None:
        body_id, field = body.conversation.id, "conversation"
    return Conversation(
        model=body.model,
        system=system,
        tools=tuple(_tools(body)),
        messages=messages,
        sampling=Sampling(temperature=body.temperature, top_p=body.top_p, max_tokens=body.max_output_tokens),
        format=format_of(
            body.tool_choice,
            body.text.format if body.text is not None else None,
            has_tools=any(body.functions()),
            field="text.format",
        ),
        previous=previous,
        kept=kept,
        **naming_of(headers, further, body_id, field),
    )


def _named(text: str) -> AnswerName:
    name = name_of(text)
    if name is None or name.is_input:
        raise Refused(Reason.SESSION_NOT_FOUND, f"there is no {text[:200]!r} here: answers are kept with their session")
    return name


def _is_reasoning(item: ReferenceItem) -> bool:
    return item.id.startswith(f"{REASONING}_")


def _tools(body: ResponsesBody) -> Iterator[ToolDefinition]:
    for number, (namespace, tool) in enumerate(body.functions()):
        schema = json_text(tool.parameters or NO_PARAMETERS, f"tools[{number}].parameters")
        yield ToolDefinition(joined(namespace, tool.name), tool.description or "", schema)


def messages_of(items: Iterable[Item], log: Log) -> Iterator[Message]:
    """The message that each item is; none for reasoning. `log` has the steps to which items refer."""
    names = dict[str, str]()
    for item in items:
        match item:
            case MessageItem():
                role = MessageRole.SYSTEM if item.role == "developer" else MessageRole(item.role)
                yield Message(role, item.text)
            case CallItem():
                names[item.call_id] = item.tool
                yield _call(ToolCall(item.call_id, item.tool, item.arguments))
            case OutputItem():
                name = names.get(item.call_id, "")
                yield Message(MessageRole.TOOL, item.text, tool_call_id=item.call_id, name=name)
            case ReferenceItem() if not _is_reasoning(item):
                yield _referred(item, log)
            case ReasoningItem() | ReferenceItem():
                pass


def _call(call: ToolCall) -> Message:
    return Message(MessageRole.ASSISTANT, "", (call,))


def _referred(item: ReferenceItem, log: Log) -> Message:
    """The part of an earlier answer. Several texts of an answer are one in the log: the first stands for all."""
    name = _named(item.id)
    output, part = log[name.step].output, name.part or 0
    if item.id.startswith(f"{TEXT}_"):
        return Message(MessageRole.ASSISTANT, "" if part else output.content)
    if item.id.startswith(f"{CALL}_") and part < len(output.tool_calls):
        return _call(output.tool_calls[part])
    raise Refused(Reason.SESSION_NOT_FOUND, f"there is no item {item.id[:200]!r}")


def _merged(messages: Iterable[Message]) -> Iterator[Message]:
    """The messages, with those of the assistant that follow each other as one: an answer's items are one turn."""
    turn: Message | None = None
    for message in messages:
        if message.role is not MessageRole.ASSISTANT:
            if turn is not None:
                yield turn
            turn = None
            yield message
        elif turn is None:
            turn = message
        else:
            turn = Message(turn.role, turn.content + message.content, (*turn.tool_calls, *message.tool_calls))
    if turn is not None:
        yield turn


def _without_last_answer(messages: Iterable[Message]) -> list[Message]:
    """The messages without what the assistant says last: Codex keeps the finished items of an answer that was cut."""
    rest = list(messages)
    while rest and rest[-1].role is MessageRole.ASSISTANT:
        rest.pop()
    return rest
