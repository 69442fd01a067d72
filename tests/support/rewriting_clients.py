"""How agents send their own history back, as functions of what was said. Measured with recording servers; versions and
details differ, the shapes are what counts."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from roost.contract.messages import Message, MessageRole, ToolCall

A, T, U = MessageRole.ASSISTANT, MessageRole.TOOL, MessageRole.USER
History = Sequence[Message]
Rewrite = Callable[[History, random.Random], list[Message]]
THINKING = "<think>\nHm.\n</think>"
COMPACT, SPACED = (",", ":"), (", ", ": ")


def openai_agents(history: History, rng: random.Random) -> list[Message]:
    """Everything as it came."""
    return list(history)


def codex(history: History, rng: random.Random) -> list[Message]:
    """Text and each call are items of their own."""
    sent = list[Message]()
    for message in history:
        if message.role is A and message.tool_calls:
            sent += [Message(A, message.content)] if message.content else []
            sent += [Message(A, "", (call,)) for call in message.tool_calls]
        else:
            sent.append(message)
    return sent


def claude_code(history: History, rng: random.Random) -> list[Message]:
    """Results in the order in which the tools ended; text that is whitespace dropped; arguments parsed."""
    sent = list[Message]()
    for role, group in groupby(_respelled(history, COMPACT), key=lambda message: message.role):
        messages = list(group)
        if role is T:
            rng.shuffle(messages)
        sent += [replace(m, content=m.content if m.content.strip() else "") for m in messages]
    return sent


def opencode(history: History, rng: random.Random) -> list[Message]:
    """Arguments compact, without escapes; an empty assistant message where an attempt failed."""
    sent = list[Message]()
    for message in _respelled(history, COMPACT):
        if message.role is A and rng.random() < 0.2:
            sent.append(Message(A, ""))
        sent.append(message)
    return sent


def qwen_code(history: History, rng: random.Random) -> list[Message]:
    """Arguments compact."""
    return list(_respelled(history, COMPACT))


def pi(history: History, rng: random.Random) -> list[Message]:
    """Arguments compact, text that is whitespace dropped."""
    return [replace(m, content=m.content if m.content.strip() else "") for m in _respelled(history, COMPACT)]


def langgraph(history: History, rng: random.Random) -> list[Message]:
    """Arguments in Python's spacing, and numbers as Python spells them."""
    return list(_respelled(history, SPACED))


def openhands(history: History, rng: random.Random) -> list[Message]:
    """Arguments in Python's spacing, escaped; text that is whitespace dropped."""
    spelled = _respelled(history, SPACED, escaped=True)
    return [replace(m, content=m.content if m.content.strip() else "") for m in spelled]


def crewai(history: History, rng: random.Random) -> list[Message]:
    """No text beside a call."""
    return [replace(message, content="") if message.tool_calls else message for message in history]


def pydantic_ai(history: History, rng: random.Random) -> list[Message]:
    """Reasoning as an assistant message of its own; arguments compact, numbers as Python spells them."""
    sent = list[Message]()
    for message in _respelled(history, COMPACT):
        sent += [Message(A, THINKING)] if message.role is A else []
        sent.append(message)
    return sent


def inspect_ai(history: History, rng: random.Random) -> list[Message]:
    """A newline before the text of a turn that had reasoning; arguments with escapes."""
    spelled = _respelled(history, SPACED, escaped=True)
    return [replace(m, content="\n" + m.content) if m.role is A and m.content else m for m in spelled]


def smolagents(history: History, rng: random.Random) -> list[Message]:
    """Calls as Python text in the assistant's, results as a user's message."""
    sent = list[Message]()
    for role, group in groupby(history, key=lambda message: message.role):
        messages = list(group)
        if role is T:
            sent.append(Message(U, "Observation:\n" + "\n".join(message.content for message in messages)))
        elif role is A:
            sent += [Message(A, "\n".join(part for part in _flat(message) if part)) for message in messages]
        else:
            sent += messages
    return sent


def _flat(message: Message) -> Iterator[str]:
    yield message.content.strip()
    if message.tool_calls:
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
        yield f"Calling tools:\n{calls}"


def _respelled(history: History, separators: tuple[str, str], *, escaped: bool = False) -> Iterator[Message]:
    for message in history:
        calls = (replace(call, arguments_json=_spelled(call, separators, escaped)) for call in message.tool_calls)
        yield replace(message, tool_calls=tuple(calls))


def _spelled(call: ToolCall, separators: tuple[str, str], escaped: bool) -> str:
    return json.dumps(json.loads(call.arguments_json), separators=separators, ensure_ascii=escaped)


KEEP_RESULTS: dict[str, Rewrite] = {
    rewrite.__name__: rewrite
    for rewrite in (
        openai_agents,
        codex,
        claude_code,
        opencode,
        qwen_code,
        pi,
        langgraph,
        openhands,
        crewai,
        pydantic_ai,
        inspect_ai,
    )
}
"""Clients that send results of calls as such."""
CLIENTS = {**KEEP_RESULTS, "smolagents": smolagents}


def essence(messages: History) -> list[Any]:
    """What a history says, computed in another way than by the code under test: equal for a history and its echo by any
    of `KEEP_RESULTS`."""
    said = [message for message in messages if message.role is not A or message.tool_calls or _text(message)]
    parts = list[Any]()
    for role, group in groupby(said, key=lambda message: message.role):
        if role is T:
            parts.append(sorted((message.tool_call_id, message.content) for message in group))
        elif role is A:
            turn = list(group)
            calls = [call.id for message in turn for call in message.tool_calls]
            parts.append(calls or "".join(map(_text, turn)))
        else:
            parts += [(role.value, message.content) for message in group]
    return parts


def _text(message: Message) -> str:
    return message.content.replace(THINKING, "").strip()
