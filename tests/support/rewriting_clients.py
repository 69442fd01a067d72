"""How clients send their own past turns back: /v1 recordings of 20 clients, as functions of a history."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from roost.contract.messages import Message, MessageRole, ToolCall

A = MessageRole.ASSISTANT
Rewrite = Callable[[Sequence[Message], random.Random], list[Message]]


def verbatim(history: Sequence[Message], rng: random.Random) -> list[Message]:
    """openai-agents, agno."""
    return list(history)


def claude_code(history: Sequence[Message], rng: random.Random) -> list[Message]:
    """Results in the order of completion; text that is whitespace dropped."""
    sent = list[Message]()
    for role, group in groupby(history, key=lambda message: message.role):
        messages = list(group)
        if role is MessageRole.TOOL:
            rng.shuffle(messages)
        sent += [replace(m, content=m.content if m.content.strip() else "") for m in messages]
    return sent


def opencode(history: Sequence[Message], rng: random.Random) -> list[Message]:
    """Arguments compact; an empty assistant message where an attempt failed."""
    sent = list[Message]()
    for message in respelled(history, (",", ":")):
        if message.role is A and rng.random() < 0.2:
            sent.append(Message(A, ""))
        sent.append(message)
    return sent


def langgraph(history: Sequence[Message], rng: random.Random) -> list[Message]:
    """Arguments in Python's spacing, numbers as Python spells them."""
    return list(respelled(history, (", ", ": ")))


def crewai(history: Sequence[Message], rng: random.Random) -> list[Message]:
    """No text beside a call."""
    return [replace(message, content="") if message.tool_calls else message for message in history]


def pydantic_ai(history: Sequence[Message], rng: random.Random) -> list[Message]:
    """Reasoning as an assistant message of its own; compact arguments."""
    sent = list[Message]()
    for message in respelled(history, (",", ":")):
        sent += [Message(A, "<think>\nHm.\n</think>")] if message.role is A else []
        sent.append(message)
    return sent


def inspect_ai(history: Sequence[Message], rng: random.Random) -> list[Message]:
    """A newline before the text of a turn that had reasoning."""
    return [replace(m, content="\n" + m.content) if m.role is A and m.content else m for m in history]


def respelled(history: Sequence[Message], separators: tuple[str, str]) -> Iterator[Message]:
    for message in history:
        calls = (replace(call, arguments_json=_spelled(call, separators)) for call in message.tool_calls)
        yield replace(message, tool_calls=tuple(calls))


def _spelled(call: ToolCall, separators: tuple[str, str]) -> str:
    return json.dumps(json.loads(call.arguments_json), separators=separators, ensure_ascii=False)


CLIENTS: dict[str, Rewrite] = {
    rewrite.__name__: rewrite
    for rewrite in (verbatim, claude_code, opencode, langgraph, crewai, pydantic_ai, inspect_ai)
}
