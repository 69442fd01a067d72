"""Renders a log's tokens from its messages, for a session whose model has changed or whose thinking goes. Pure."""

import json
from array import array
from collections.abc import Sequence
from datetime import date
from typing import Any

from roost.v1 import session_service_pb2 as api
from roost_worker.render.dates import UNDATED
from roost_worker.render.errors import RenderError
from roost_worker.render.formats import Thinking, Turn, TurnFormat, WrittenCall
from roost_worker.render.messages import Message, Tool, ToolCall, message_of
from roost_worker.render.pieces import Piece
from roost_worker.render.renderer import Renderer

_NOT_ENDED = -1
"""Last token of a log that does not end with the end of a turn."""


class LogRenderer:
    """Renders the steps of one log in order, from its beginning or after the first `steps`, of `length` tokens.

    `last_id` is the last of these if the model wrote them; None if they were rendered, too.
    """

    def __init__(
        self,
        renderer: Renderer,
        system: str,
        tools: Sequence[Tool | api.Tool],
        *,
        day: date = UNDATED,
        steps: int = 0,
        length: int = 0,
        last_id: int | None = None,
    ) -> None:
        self._renderer, self._system, self._tools, self._day = renderer, system, tools, day
        self._steps = steps
        self._last_id = _NOT_ENDED if last_id is None else last_id
        self.length = length
        """Tokens so far."""

    def step(
        self,
        messages: Sequence[Message | api.Message],
        output: Message | api.Message,
        text: str,
        *,
        without_thinking: bool = False,
    ) -> "tuple[array[int], array[int]]":
        """Return the prompt and output ids of the next step. `text` is everything that the model wrote.

        Output ids are those of its text only: the next step's prompt closes the turn, whatever ended it. Without the
        model's thinking, the prompt does not open it either. Raise RenderError, with the step's number, when the
        template cannot show a message.
        """
        vocabulary, known, said = self._renderer.vocabulary, self._renderer.format, message_of(output)
        try:
            pieces = self._renderer.step_pieces(
                messages=messages,
                log_ids=(self._last_id,) if self._steps else (),
                system=self._system,
                tools=self._tools,
                day=self._day,
            )
            if without_thinking:
                pieces, text = _unopened(pieces, known.thinking), _thoughtless(said, text, known.thinking)
            prompt = vocabulary.encode(pieces)
            ids = vocabulary.encode(output_pieces(said, text, known))
        except RenderError as error:
            raise RenderError(f"step {self._steps}: {error}") from error
        self._steps, self._last_id = self._steps + 1, _NOT_ENDED
        self.length += len(prompt) + len(ids)
        return prompt, ids


def _unopened(pieces: list[Piece], marks: Thinking | None) -> list[Piece]:
    """Return a prompt without the mark that opens the model's thinking at its end, if there is one."""
    *before, last = pieces
    text = last.text.rstrip()
    if marks is None or last.content or not text.endswith(marks.open):
        return pieces
    return [*before, Piece(text.removesuffix(marks.open), False)]


def _thoughtless(output: Message, text: str, marks: Thinking | None) -> str:
    """Return what the model wrote after its thinking."""
    if not output.tool_calls:
        return output.content
    before, close, after = text.partition(marks.close) if marks else ("", "", "")
    is_content = output.content.lstrip().startswith((before + close).lstrip())
    return after.lstrip() if close and not is_content else text


def output_pieces(output: Message, text: str, turn_format: TurnFormat) -> list[Piece]:
    """Return what the model wrote, with tool calls as `turn_format` writes them: all else is content.

    From calls in another format the model would learn a wrong one.
    """
    if not output.tool_calls:
        return [Piece(text, True)]
    # A committed call is a call whatever the session's tools are, since older versions did not ask for these.
    parsed = turn_format.parse(text, Turn({call.name for call in output.tool_calls}))
    if meanings(parsed.calls) != meanings(output.tool_calls):
        return turn_format.calls.message_pieces(output.content, output.tool_calls)
    calls = [
        ToolCall(own.id, call.name, call.arguments_json)
        for own, call in zip(output.tool_calls, parsed.calls, strict=True)
    ]
    before, written, after = text.rpartition(turn_format.calls.write(calls))
    if written:
        return [Piece(before, True), *turn_format.calls.pieces(calls), Piece(after, True)]
    thinking = turn_format.thinking_of(text) if parsed.reasoning else ""
    return [Piece(thinking, True), *turn_format.calls.message_pieces(parsed.content, calls)]


def meanings(calls: Sequence[ToolCall | WrittenCall]) -> list[tuple[str, Any]]:
    """Return the name of each call, and its arguments as values, or as text if they are not JSON."""
    return [(call.name, _arguments(call)) for call in calls]


def _arguments(call: ToolCall | WrittenCall) -> Any:
    try:
        return json.loads(call.arguments_json or "{}")
    except (ValueError, RecursionError):
        return call.arguments_json
