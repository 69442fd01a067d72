"""Renders messages to the token ids of a step's prompt, without changing the ids of the log before it."""

import json
from array import array
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from roost.v1 import session_service_pb2 as api
from roost_worker.render.choice import choose_format
from roost_worker.render.dates import UNDATED
from roost_worker.render.description import TemplateDescription
from roost_worker.render.errors import RenderError
from roost_worker.render.formats import TurnFormat, format_named
from roost_worker.render.messages import (
    Message,
    Tool,
    message_of,
    template_message,
    template_tools,
    tool_of,
)
from roost_worker.render.pieces import Piece
from roost_worker.render.probing import default_system, render_delta, shows_part, text_of
from roost_worker.render.sandbox import ChatTemplate, Written
from roost_worker.render.turns import Turns, choose_turns
from roost_worker.render.vocabulary import Vocabulary


class Renderer:
    """Renders the prompts of one model's steps. Stateless after construction, and thread-safe.

    It uses the model's own template if that is prefix-stable, otherwise its format's; `own_template_refused` then says
    why, and is empty when the own template is used.
    """

    def __init__(self, description: TemplateDescription, vocabulary: Vocabulary, vocab_size: int) -> None:
        """Raise RenderError with all reasons when no template can be used."""
        self.description = description
        self.format = _format_of(description, vocabulary)
        self.vocabulary = vocabulary
        self.vocab_size = vocab_size
        """Rows of the model's logits; ids from `len(vocabulary.token_bytes)` on are padding."""
        self.eos_token_ids = tuple(index for index in description.eos_token_ids if index < vocab_size)
        """Ids that end a turn, without those that the model cannot draw: its files may name another model's, too."""
        self.sampling_defaults = description.sampling
        """The model's own values of sampling fields; a step's come before them."""
        self.token_bytes = vocabulary.bytes_with_text_of(self.format.marks)
        """The bytes that each id adds to an output's text: special tokens add none, but for the format's marks."""
        thinking = self.format.thinking
        self.thinking_tokens = thinking is not None and thinking.open in vocabulary.control
        """Whether the marks of thinking are tokens of the vocabulary, as they are of models that think."""
        self.call_wrapper = self.format.calls.wrapper(_tokens_of_grammars(self.format.marks, vocabulary))
        """What a grammar forces around a call."""
        self._turns = choose_turns(description, description.chat_template, self.format, vocabulary)
        self.own_template_refused = self._turns.own_refused
        self.tool_template_refused = ""
        """Why the model's template for sessions with tools is not used; empty when it is, or the model has none."""
        self._tool_turns = self._choose_tool_turns(description)
        self._tool_prompt = ChatTemplate(self.format.tool_prompt, "", "")

    @classmethod
    def from_dir(cls, model_dir: Path) -> "Renderer":
        """Build the renderer of a prepared model. Raise RenderError when its files or templates cannot be used."""
        try:
            description = TemplateDescription.load(model_dir / "template.json")
            vocab_size = int(json.loads((model_dir / "config.json").read_bytes())["vocab_size"])
        except (OSError, ValueError, KeyError) as error:
            raise RenderError(f"{model_dir} does not hold a prepared model: {error}") from error
        return cls(description, Vocabulary.from_file(model_dir / "tokenizer.json"), vocab_size)

    def render_step(
        self,
        *,
        messages: Sequence[Message | api.Message],
        log_ids: Sequence[int] = (),
        system: str = "",
        tools: Sequence[Tool | api.Tool] = (),
        day: date = UNDATED,
    ) -> "array[int]":
        """Return the prompt ids of a step, those of its `step_pieces`. Raise RenderError as that does."""
        pieces = self.step_pieces(messages=messages, log_ids=log_ids, system=system, tools=tools, day=day)
        return self.vocabulary.encode(pieces)

    def step_pieces(
        self,
        *,
        messages: Sequence[Message | api.Message],
        log_ids: Sequence[int] = (),
        system: str = "",
        tools: Sequence[Tool | api.Tool] = (),
        day: date = UNDATED,
    ) -> list[Piece]:
        """Return the prompt of a step as text, from the end of the log to where the assistant's turn begins.

        With an empty log it begins with system text and tools; else with what closes the previous turn, depending on
        the last id of `log_ids`, and a template may look for switches in the system text only. Calls of assistant
        messages are written in the model's format, with their arguments as they are. `day` is the session's date. Raise
        RenderError when the template cannot show a message.
        """
        written = self._turns_for(tools).on(day)
        turns = [self._with_written_calls(message_of(message), written) for message in messages]
        _check_turns(turns)
        if len(log_ids):
            delta = render_delta(written.template, _in_place(turns, written), system)
            pieces = [*written.closer(log_ids[-1]), *delta]
        else:
            pieces = self._first(system, [tool_of(tool) for tool in tools], turns, written)
        _check_shown(turns, pieces)
        return pieces

    def shows_tools(self) -> bool:
        """Return whether the template of sessions with tools shows them, rather than the system text."""
        return self._tool_turns.behaviour.shows_tools

    def opens_thinking(self, messages: Sequence[Message | api.Message], tools: Sequence[Tool | api.Tool]) -> bool:
        """Return whether a step's prompt ends within the model's thinking, so that its output begins there."""
        written = self._turns_for(tools)
        return any(written.role_of(message_of(last)) in written.opens_thinking for last in messages[-1:])

    def _turns_for(self, tools: Sequence[Tool | api.Tool]) -> Turns:
        return self._tool_turns if len(tools) else self._turns

    def _choose_tool_turns(self, description: TemplateDescription) -> Turns:
        """Return the turns of sessions with tools: those of the model's template for them, if it can be used."""
        if not description.tool_chat_template:
            return self._turns
        try:
            turns = choose_turns(description, description.tool_chat_template, self.format, self.vocabulary)
        except RenderError as error:
            self.tool_template_refused = str(error)
            return self._turns
        self.tool_template_refused = turns.own_refused
        return self._turns if turns.own_refused else turns

    def _first(self, system: str, tools: Sequence[Tool], turns: Sequence[Message], written: Turns) -> list[Piece]:
        if not system and turns[0].role == "system" and len(turns) > 1:
            system, turns = turns[0].content, turns[1:]
        shown = template_tools(tools)
        if shown and not written.behaviour.shows_tools:
            prompt = text_of(self._tool_prompt.render([], shown, generation_prompt=False))
            system, shown = f"{system or default_system(written.template)}\n\n{prompt}".lstrip("\n"), None
        head = [Message("system", system)] if system else []
        if not head and turns[0].role == "system":  # alone: the template would take it for the session's system text
            turns = [replace(turns[0], role="user")]
        documents = [template_message(turn) for turn in (*head, *_in_place(turns, written))]
        pieces = written.template.render(documents, shown, generation_prompt=True)
        if system and not shows_part(pieces, system):
            raise RenderError("the model's template drops the system text")
        return pieces

    def _with_written_calls(self, message: Message, written: Turns) -> Message:
        """Return the message with its tool calls as the model writes them, if the template takes them so."""
        if not message.tool_calls:
            return message
        calls = self.format.calls
        if written.built_in:
            text = Written(calls.pieces(message.tool_calls, after=message.content))
            return replace(message, tool_calls=(), written_calls=text)
        if written.behaviour.shows_tool_calls and not written.behaviour.takes_written_calls:
            return message
        return replace(
            message, content=Written(calls.message_pieces(message.content, message.tool_calls)), tool_calls=()
        )


def _tokens_of_grammars(marks: Sequence[str], vocabulary: Vocabulary) -> dict[str, int]:
    """Return the marks that a grammar must name by id, with their ids.

    A grammar's text never matches a special token, and llguidance takes every added token `<…>` for a special one.
    """
    return {
        mark: vocabulary.control[mark]
        for mark in marks
        if mark in vocabulary.special or (mark in vocabulary.control and mark[0] + mark[-1] == "<>")
    }


def _in_place(turns: Sequence[Message], written: Turns) -> list[Message]:
    """Return messages that follow others, with the roles by which they are shown."""
    return [replace(turn, role=written.role_of(turn)) for turn in turns]


def _check_turns(turns: Sequence[Message]) -> None:
    if not turns:
        raise RenderError("a step needs at least one message")
    if turns[-1].role == "assistant":
        raise RenderError("the last message is the assistant's; it must be the user's, a tool's or the system's")


def _check_shown(turns: Sequence[Message], pieces: Sequence[Piece]) -> None:
    """Raise RenderError if a message's content was not rendered. Linear for contents that stand in their order."""
    text, at = text_of(pieces), 0
    for turn in turns:
        end = _end_of(turn.content, text, at)
        if end is not None:
            at = end
        elif not shows_part(pieces, turn.content):
            raise RenderError(f"the model's template drops a message of role {turn.role} here")


def _end_of(content: str, text: str, start: int) -> int | None:
    """Return where the content ends in the text after `start`, as it is or inside JSON; None if it is not there."""
    forms = (content.strip(), json.dumps(content.strip(), ensure_ascii=False)[1:-1])
    for reach in (_NEAR, len(text)):  # a form that is not there must not be looked for in all of the text each time
        for form in forms:
            place = text.find(form, start, start + len(form) + reach)
            if place >= 0:
                return place + len(form)
    return None


_NEAR = 4096
"""Characters between two contents that a template may well write. More stand before the first one: system and tools."""


def _format_of(description: TemplateDescription, vocabulary: Vocabulary) -> TurnFormat:
    if not description.format:
        template = description.tool_chat_template or description.chat_template
        return choose_format(template, description.bos_token, description.eos_token, vocabulary.control)
    try:
        return format_named(description.format)
    except ValueError as error:
        raise RenderError(f"template.json: {error}; convert the model again with this version") from error
