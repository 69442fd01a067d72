"""Renders messages to the token ids of a step's prompt, without changing the ids of the log before it."""

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roost.v1 import session_service_pb2 as api
from roost_worker.render.description import TemplateDescription
from roost_worker.render.errors import RenderError
from roost_worker.render.formats import format_of
from roost_worker.render.messages import (
    Message,
    Tool,
    message_of,
    template_message,
    template_tools,
    tool_of,
)
from roost_worker.render.probing import Behaviour, after, mentions, probe, render_delta, text_of
from roost_worker.render.sandbox import ChatTemplate, Piece
from roost_worker.render.templates import BUILT_IN, CONTROL_TOKENS, HERMES_TOOL_PROMPT
from roost_worker.render.vocabulary import Vocabulary


class Renderer:
    """Renders the prompts of one model's steps. Stateless after construction, and thread-safe.

    It uses the model's own template if that is prefix-stable, otherwise its family's built-in turn format;
    `own_template_refused` then says why, and is empty when the own template is used.
    """

    def __init__(self, description: TemplateDescription, vocabulary: Vocabulary, vocab_size: int) -> None:
        """Raise RenderError with all reasons when no template can be used."""
        self.family = description.family
        self.call_format = format_of(description.family)
        self.vocabulary = vocabulary
        self.vocab_size = vocab_size
        """Rows of the model's logits; ids from `len(vocabulary.token_bytes)` on are padding."""
        self.eos_token_ids = description.eos_token_ids
        self.sampling_defaults = description.sampling
        """The model's own values of sampling fields; a step's come before them."""
        self._template, self._behaviour, self.own_template_refused = _choose(description, vocabulary)
        self._tool_prompt = ChatTemplate(HERMES_TOOL_PROMPT, "", "")
        self._end_id = vocabulary.control[self._behaviour.end_token]
        self._closers = self._derive_closers()
        self.opens_thinking = self._opens_thinking()
        """Whether a prompt ends within the model's thinking, so that its output begins there."""

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
    ) -> "array[int]":
        """Return the prompt ids of a step, those of its `step_pieces`. Raise RenderError as that does."""
        return self.vocabulary.encode(self.step_pieces(messages=messages, log_ids=log_ids, system=system, tools=tools))

    def step_pieces(
        self,
        *,
        messages: Sequence[Message | api.Message],
        log_ids: Sequence[int] = (),
        system: str = "",
        tools: Sequence[Tool | api.Tool] = (),
    ) -> list[Piece]:
        """Return the prompt of a step as text, from the end of the log to where the assistant's turn begins.

        With an empty log it begins with system text and tools, which are otherwise ignored; else with what closes the
        previous turn, depending on the last id of `log_ids`. Raise RenderError when the template cannot show a message.
        """
        turns = [self._plain_calls(message_of(message)) for message in messages]
        _check_turns(turns)
        if len(log_ids):
            pieces = [*self._closers[log_ids[-1] == self._end_id], *render_delta(self._template, turns)]
        else:
            pieces = self._first(system, [tool_of(tool) for tool in tools], turns)
        for turn in turns:
            if turn.content and not mentions(pieces, turn.content):
                raise RenderError(f"the model's template drops a message of role {turn.role} here")
        return pieces

    def _first(self, system: str, tools: Sequence[Tool], turns: Sequence[Message]) -> list[Piece]:
        if system and turns[0].role == "system":
            raise RenderError("system text is given twice: as the session's and as the first message")
        if not system and turns[0].role == "system":
            system, turns = turns[0].content, turns[1:]
        shown = template_tools(tools)
        if shown and not self._behaviour.shows_tools:
            prompt = text_of(self._tool_prompt.render([], shown, generation_prompt=False))
            system, shown = f"{system or self._behaviour.default_system}\n\n{prompt}".lstrip("\n"), None
        head = [Message("system", system)] if system else []
        documents = [template_message(turn) for turn in (*head, *turns)]
        pieces = self._template.render(documents, shown, generation_prompt=True)
        if system and not mentions(pieces, system):
            raise RenderError("the model's template drops the system text")
        return pieces

    def _plain_calls(self, message: Message) -> Message:
        """Return the message with its tool calls as text, if the template ignores `tool_calls`."""
        if not message.tool_calls or self._behaviour.shows_tool_calls:
            return message
        text = "\n".join(filter(None, (message.content, self.call_format.write(message.tool_calls))))
        return Message(message.role, text, (), message.tool_call_id, message.name)

    def _opens_thinking(self) -> bool:
        mark = self.call_format.thinking_mark
        prompt = text_of(render_delta(self._template, [Message("user", "probe")]))
        return bool(mark) and prompt.rstrip().endswith(mark)

    def _derive_closers(self) -> tuple[list[Piece], list[Piece]]:
        """Return what closes a turn that was cut off, and what closes one that the model ended itself."""
        whole = list(self._behaviour.closer)
        token = self._behaviour.end_token
        return whole, after(whole, text_of(whole).index(token) + len(token))


def _check_turns(turns: Sequence[Message]) -> None:
    if not turns:
        raise RenderError("a step needs at least one message")
    if turns[-1].role not in ("user", "tool"):
        raise RenderError(f"the last message is the {turns[-1].role}'s; it must be the user's or a tool's")


def _choose(description: TemplateDescription, vocabulary: Vocabulary) -> tuple[ChatTemplate, Behaviour, str]:
    """Return the template to use, what it does, and why it is not the model's own, if so."""
    ids = set(description.eos_token_ids)
    ends = [text for text, index in vocabulary.control.items() if index in ids]
    reasons: list[str] = []
    for label, source in (("own", description.chat_template), ("built-in", BUILT_IN.get(description.family, ""))):
        try:
            if not source:
                raise RenderError("there is none")
            if label == "built-in":
                _check_control_tokens(description.family, vocabulary)
            template = ChatTemplate(source, description.bos_token, description.eos_token)
            behaviour = probe(template, ends)
        except RenderError as error:
            reasons.append(str(error))
        else:
            return template, behaviour, "; ".join(reasons)
    raise RenderError(
        f"this model's turns cannot be rendered: its own chat template: {reasons[0]}; "
        f"the built-in turn format of its family ({description.family or 'unknown'}): {reasons[1]}"
    )


def _check_control_tokens(family: str, vocabulary: Vocabulary) -> None:
    missing: list[Any] = [token for token in CONTROL_TOKENS[family] if token not in vocabulary.control]
    if missing:
        raise RenderError(f"the tokenizer lacks {', '.join(missing)}")
