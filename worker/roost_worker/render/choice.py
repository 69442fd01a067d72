"""Chooses a model's turn-and-tool format, by its vocabulary's tokens and by what its own template does. Pure."""

import json
from collections.abc import Container, Sequence

from roost_worker.render.errors import RenderError
from roost_worker.render.formats import FORMATS, HERMES, Turn, TurnFormat
from roost_worker.render.messages import Message, ToolCall, template_message
from roost_worker.render.probing import text_of
from roost_worker.render.sandbox import ChatTemplate

_SYSTEM = Message("system", "probe-system")
_USER = Message("user", "probe-user")
_ARGUMENTS = {"probe_argument": "probe-value"}
_CALL = Message("assistant", "", (ToolCall("callprobe", "probe_call", json.dumps(_ARGUMENTS)),))


def choose_format(chat_template: str, bos_token: str, eos_token: str, tokens: Container[str]) -> TurnFormat:
    """Return the format that fits a model best; `HERMES` if its turns are unknown. `tokens` are its control tokens.

    A format is possible when the vocabulary has its tokens, and the template, if there is one, writes its turns with
    them. Of the possible ones that is taken whose parser reads the calls that the template writes, then the one that
    writes a user's turn, alone or after a system text, and a call as the template does, then the one whose other tokens
    the vocabulary has.
    """
    possible = [known for known in FORMATS if known.tokens and _is_possible(known, chat_template, tokens)]
    own = _Writer(chat_template, bos_token, eos_token)

    def fitness(known: TurnFormat) -> tuple[bool, bool, bool, bool]:
        turns = _Writer(known.turns, "", eos_token)
        written = without_end(own.call, known, eos_token)
        return (
            _reads(known, written),
            turns.user_turn in own.user_turn or turns.system_turn in own.system_turn,
            bool(written) and without_end(turns.call, known, eos_token) == written,
            all(sign in tokens for sign in known.signs),
        )

    return max(possible, key=fitness, default=HERMES)


def _is_possible(known: TurnFormat, chat_template: str, tokens: Container[str]) -> bool:
    in_template = not chat_template or all(token in chat_template for token in known.tokens[:2])
    return in_template and all(token in tokens for token in known.tokens)


def _reads(known: TurnFormat, written: str) -> bool:
    parsed = known.parse(written, Turn({"probe_call"}))
    return [json.loads(call.arguments_json) for call in parsed.calls] == [_ARGUMENTS]


def without_end(written: str, known: TurnFormat, eos_token: str) -> str:
    """Return a written turn without the token that ends it, and without blanks around it."""
    written = written.rstrip()
    for end in (*known.turn_ends, eos_token):
        written = written.removesuffix(end)
    return written.strip()


class _Writer:
    """What a template writes for a user's message and for a call; nothing where it refuses."""

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        self._source, self._bounds = source, (bos_token, eos_token)
        self.user_turn = self._write([_USER], generation_prompt=True)
        """A conversation of one user's message, up to where the answer begins."""
        self.system_turn = self._write([_SYSTEM, _USER], generation_prompt=True)
        """The same after a system text: without one, a template may write a default of its own."""
        whole = self._write([_USER, _CALL], generation_prompt=False)
        before = self.user_turn
        if not whole.startswith(before):  # the answer begins within something that a call does without
            before = self._write([_USER], generation_prompt=False)
        self.call = whole.removeprefix(before)

    def _write(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        documents = [template_message(message) for message in messages]
        try:
            template = ChatTemplate(self._source, *self._bounds)
            return text_of(template.render(documents, None, generation_prompt=generation_prompt))
        except RenderError:
            return ""
