"""Probes what a chat template does, when a model is loaded, so that a step's prompt can be rendered without its log.

A template is *prefix-stable* when adding messages to a conversation only adds text, and the same text whatever the
conversation was: then this text can be cut out of the rendering of a stub conversation. Known to break this: Qwen3
drops old thinking, Mistral moves system text and tools to the last user message, some refuse tool messages.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from roost_worker.render.errors import RenderError
from roost_worker.render.messages import Message, Tool, ToolCall, template_message, template_tools
from roost_worker.render.pieces import Piece
from roost_worker.render.sandbox import ChatTemplate

_SYSTEM = Message("system", "probe-system")
_USER = Message("user", "probe-user")
_ANSWER = Message("assistant", "probe-answer")
_CALL = Message("assistant", "", (ToolCall("callprobe", "probe_call", '{"probe_argument": "probe-value"}'),))
_RESULT = Message("tool", "probe-result", tool_call_id="callprobe", name="probe_call")
_SECOND_RESULT = Message("tool", "probe-second-result", tool_call_id="callprobe", name="probe_call")
_NEXT = Message("user", "probe-next")
_INSTRUCTION = Message("system", "probe-instruction")
_TOOL = Tool("probe_tool", "probe-description", '{"type": "object", "properties": {"probe_parameter": {}}}')

_CASES: tuple[tuple[str, tuple[Message, ...], tuple[Message, ...]], ...] = (
    ("a user's message", (_USER, _ANSWER), (_NEXT,)),
    ("a second exchange", (_USER, _ANSWER, _NEXT, _ANSWER), (_USER,)),
    ("a tool's result", (_USER, _CALL), (_RESULT,)),
    ("two tools' results", (_USER, _CALL), (_RESULT, _SECOND_RESULT)),
    ("a user's message after a tool's result", (_USER, _CALL, _RESULT, _ANSWER), (_NEXT,)),
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a prefix-stable template does, as found by `probe`."""

    closer: tuple[Piece, ...]
    """Text that the template writes after an assistant's content, before the next turn."""
    end_token: str
    """The control token in `closer` that ends the turn."""
    shows_tools: bool
    shows_tool_calls: bool
    takes_written_calls: bool
    """Whether calls may be given to it within an assistant's content, as its model writes them."""
    system_anywhere: bool
    """Whether it writes system messages after others at their place."""


def text_of(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def after(pieces: Sequence[Piece], length: int) -> list[Piece]:
    """Return the pieces without their first `length` characters."""
    rest: list[Piece] = []
    for piece in pieces:
        kept = piece.text[length:]
        length = max(0, length - len(piece.text))
        if kept:
            rest.append(Piece(kept, piece.content))
    return rest


def stub_history(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the shortest conversation that `messages` can follow."""
    before_answers = takewhile(lambda message: message.role != "assistant", messages)
    return (_USER, _CALL if any(message.role == "tool" for message in before_answers) else _ANSWER)


def render_delta(template: ChatTemplate, messages: Sequence[Message], system: str = "") -> list[Piece]:
    """Return what `messages`, and the start of the assistant's turn, add to a conversation. Raise RenderError.

    `system` is the conversation's system text, in which a template may look for switches.
    """
    history = stub_history(messages)
    head = [Message("system", system)] if system else []
    try:
        return _delta(template, (*head, *history), messages, None)
    except RenderError:  # because of what a message says, such as a switch that changes the system text
        return _delta(template.blind, history, messages, None)


def mentions(pieces: Sequence[Piece], content: str) -> bool:
    """Return whether the content was rendered, as it is or inside JSON. Blanks around it do not count."""
    text, content = text_of(pieces), content.strip()
    return content in text or json.dumps(content, ensure_ascii=False)[1:-1] in text


def shows_part(pieces: Sequence[Piece], content: str) -> bool:
    """Return whether the content was rendered, or a part of it: templates cut out thinking and switches."""
    parts = (piece.text.strip() for piece in pieces if piece.content)
    return mentions(pieces, content) or any(part and part in content for part in parts)


def probe(template: ChatTemplate, end_tokens: Sequence[str]) -> Behaviour:
    """Probe the template. Raise RenderError with the reason when it is not prefix-stable or drops messages."""
    tools = template_tools([_TOOL])
    for name, history, new in _CASES:
        _check_stable(template, name, history, new, tools)
    _check_thinking(template)
    closer, end_token = _closer(template, end_tokens)
    return Behaviour(
        closer,
        end_token,
        shows_tools=mentions(_render(template, (_SYSTEM, _USER), tools), _TOOL.name),
        shows_tool_calls=mentions(_render(template, (_USER, _CALL, _RESULT)), _CALL.tool_calls[0].name),
        takes_written_calls=_takes_written_calls(template),
        system_anywhere=_system_anywhere(template, tools),
    )


def _render(
    template: ChatTemplate, messages: Sequence[Message], tools: Any = None, *, generation_prompt: bool = False
) -> list[Piece]:
    return template.render([template_message(item) for item in messages], tools, generation_prompt=generation_prompt)


def _delta(template: ChatTemplate, history: Sequence[Message], new: Sequence[Message], tools: Any) -> list[Piece]:
    before = text_of(_render(template, history, tools))
    whole = _render(template, (*history, *new), tools, generation_prompt=True)
    if not text_of(whole).startswith(before):
        raise RenderError("it writes the conversation so far differently when messages follow")
    return after(whole, len(before))


def _check_stable(
    template: ChatTemplate, name: str, history: Sequence[Message], new: Sequence[Message], tools: Any
) -> None:
    try:
        expected = render_delta(template, new)
        for given in (history, (_SYSTEM, *history)):
            for shown in (None, tools):
                if _delta(template, given, new, shown) != expected:
                    raise RenderError("what it adds depends on the conversation before")
    except RenderError as error:
        raise RenderError(f"{name}: {error}") from error
    lost = [message.content for message in new if not mentions(expected, message.content)]
    if lost:
        raise RenderError(f"{name}: it drops the message")
    if not mentions(_render(template, (_SYSTEM, _USER)), _SYSTEM.content):
        raise RenderError("system text: it drops it")


def _takes_written_calls(template: ChatTemplate) -> bool:
    """Return whether a tool's result may follow an answer that the template does not know to hold a call."""
    try:
        return _delta(template, (_USER, _ANSWER), (_RESULT,), None) == render_delta(template, (_RESULT,))
    except RenderError:
        return False


def _system_anywhere(template: ChatTemplate, tools: Any) -> bool:
    histories = ((_USER, _ANSWER), (_SYSTEM, _USER, _ANSWER), (_USER, _ANSWER, _NEXT, _ANSWER))
    try:
        for new in ((_INSTRUCTION,), (_NEXT, _INSTRUCTION), (_INSTRUCTION, _NEXT)):
            expected = render_delta(template, new)
            text = text_of(expected)
            places = [text.find(message.content) for message in new]
            if places[0] < 0 or places != sorted(places):
                return False
            if any(_delta(template, given, new, shown) != expected for given in histories for shown in (None, tools)):
                return False
    except RenderError:
        return False
    return True


def _check_thinking(template: ChatTemplate) -> None:
    """Raise RenderError if the template drops earlier thinking: a step's prompt cannot change the log before it."""
    answer = {**template_message(_ANSWER), "reasoning_content": "probe-thinking"}
    history = [template_message(_USER), answer]
    before = text_of(template.render(history, None, generation_prompt=False))
    later = text_of(template.render([*history, template_message(_NEXT)], None, generation_prompt=False))
    if not later.startswith(before):
        raise RenderError("thinking: it drops an earlier turn's thinking when a user's message follows")


def _closer(template: ChatTemplate, end_tokens: Sequence[str]) -> tuple[tuple[Piece, ...], str]:
    pieces = _render(template, (_USER, _ANSWER))
    text = text_of(pieces)
    start = text.rfind(_ANSWER.content) + len(_ANSWER.content)
    places = [(text.index(token, start), token) for token in end_tokens if token in text[start:]]
    if not places:
        raise RenderError(f"an assistant's turn ends with {text[start:]!r}, which has no end-of-turn token")
    return tuple(after(pieces, start)), min(places)[1]


def default_system(template: ChatTemplate) -> str:
    """Return the system text that the template writes for a conversation without one; may be empty."""
    head, _, tail = text_of(_render(template, (_SYSTEM, _USER))).partition(_SYSTEM.content)
    bare = text_of(_render(template, (_USER,)))
    fits = bare.startswith(head) and bare.endswith(tail) and len(bare) >= len(head) + len(tail)
    return bare[len(head) : len(bare) - len(tail)] if fits else ""
