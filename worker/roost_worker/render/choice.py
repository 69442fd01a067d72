"""Chooses a model's turn-and-tool format, by its vocabulary's tokens and by what its own template does. Pure."""

import json
from collections.abc import Callable, Container

from roost_worker.render.errors import RenderError
from roost_worker.render.formats import FORMATS, HERMES, Turn, TurnFormat
from roost_worker.render.messages import Message, ToolCall
from roost_worker.render.reference import Reference

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
    own = _Examples(chat_template, bos_token, eos_token)

    def fitness(known: TurnFormat) -> tuple[bool, bool, bool, bool]:
        turns = _Examples(known.turns, "", eos_token)
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


class _Examples:
    """What a template writes for a user's message and for a call; nothing where it refuses."""

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        template = Reference(source, bos_token, eos_token)
        self.user_turn = _written(template.write, [_USER])
        """A conversation of one user's message, up to where the answer begins."""
        self.system_turn = _written(template.write, [_SYSTEM, _USER])
        """The same after a system text: without one, a template may write a default of its own."""
        self.call = _written(template.write_answer, _USER, _CALL)


def _written(write: Callable[..., str], *messages: object) -> str:
    try:
        return write(*messages)
    except RenderError:
        return ""
