"""How a format writes tool calls: one source for text, for the turn template and for the grammar. Pure."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from roost_worker.render.pieces import Piece


class Call(Protocol):
    """A tool's name, the JSON text of its arguments, and an id, which may be empty."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def arguments_json(self) -> str: ...


Literal = tuple[str | int, ...]
"""Text that a grammar forces; a number is the id of a control token."""


@dataclass(frozen=True, slots=True)
class CallWrapper:
    """What a grammar forces around the name and the arguments of a call, in one model's vocabulary."""

    before_name: Literal
    before_arguments: Literal
    after_arguments: Literal


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """What stands around the name and the arguments of a call, and around several calls."""

    before_name: str
    before_arguments: str
    after_arguments: str
    separator: str
    """Between two calls."""
    start: str = ""
    """Before the first call."""
    end: str = ""
    """After the last one."""
    after_content: str = ""
    """Between the text of a message and its calls."""
    id_after_name: str = ""
    """How a call's id is written, with `{id}` in its place, by formats that show ids."""
    id_after_arguments: str = ""
    """The same, behind the arguments."""

    def write(self, calls: Iterable[Call]) -> str:
        """Write calls so that the format's parser reads them back, with their arguments as they are."""
        return "".join(piece.text for piece in self.pieces(calls))

    def message_pieces(self, content: str, calls: Sequence[Call]) -> list[Piece]:
        """Return a message's text and calls as the model writes them."""
        return [Piece(content, True), *self.pieces(calls, after=content)] if content else self.pieces(calls)

    def pieces(self, calls: Iterable[Call], *, after: str = "") -> list[Piece]:
        """Return what `write` writes, in a message of the text `after`.

        Names, ids and arguments are content. All else is the format's own, in which control tokens are recognised.
        """
        pieces = [Piece(self.after_content if after else "", False), Piece(self.start, False)]
        for number, call in enumerate(calls):
            pieces += [Piece(self.separator if number else "", False), *self._call(call)]
        return [piece for piece in (*pieces, Piece(self.end, False)) if piece.text]

    def wrapper(self, marks: Mapping[str, int]) -> CallWrapper:
        """Return what a grammar of one call forces. `marks` are control tokens and their ids."""
        return CallWrapper(
            _literal(self.start + self.before_name, marks),
            _literal(self.before_arguments, marks),
            _literal(self.after_arguments + self.end, marks),
        )

    def jinja(self) -> str:
        """Return the part of a turn template that writes the calls of `message`: its `written_calls` as they are, or
        else its `tool_calls`."""
        return (
            "{% if message.written_calls is defined %}{{ message.written_calls }}{% elif message.tool_calls %}"
            f"{{% if message.content %}}{jinja_text(self.after_content)}{{% endif %}}{jinja_text(self.start)}"
            "{% for call in message.tool_calls %}"
            f"{{% if not loop.first %}}{jinja_text(self.separator)}{{% endif %}}"
            f"{jinja_text(self.before_name)}{{{{ call.function.name }}}}{_jinja_id(self.id_after_name)}"
            f"{jinja_text(self.before_arguments)}{{{{ call.function.arguments | tojson }}}}"
            f"{_jinja_id(self.id_after_arguments)}"
            f"{jinja_text(self.after_arguments)}"
            f"{{% endfor %}}{jinja_text(self.end)}"
            "{% endif %}"
        )

    def _call(self, call: Call) -> list[Piece]:
        return [
            Piece(self.before_name, False),
            Piece(_in_json(call.name), True),
            *_id_pieces(self.id_after_name, call.id),
            Piece(self.before_arguments, False),
            Piece(call.arguments_json or "{}", True),
            *_id_pieces(self.id_after_arguments, call.id),
            Piece(self.after_arguments, False),
        ]


def _in_json(text: str) -> str:
    """Return the text as in a JSON string. Names are plain, but for those that clients or older versions brought."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _id_pieces(written: str, call_id: str) -> list[Piece]:
    before, _, after = written.partition("{id}")
    if not written or not call_id:
        return []
    return [Piece(before, False), Piece(_in_json(call_id), True), Piece(after, False)]


def _jinja_id(written: str) -> str:
    before, _, after = written.partition("{id}")
    return f"{jinja_text(before)}{{{{ call.id }}}}{jinja_text(after)}" if written else ""


def jinja_text(text: str) -> str:
    """Return Jinja that writes `text` exactly, whatever blocks stand beside it."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def _literal(text: str, marks: Mapping[str, int]) -> Literal:
    pattern = "|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or "(?!)"
    return tuple(marks.get(part, part) for part in re.split(f"({pattern})", text) if part)
