"""A tool-call format: how calls are written, and the parser that reads them. Pure."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from roost_worker.render.formats.parser import CallParser, ParsedText, Turn


class Call(Protocol):
    """A tool's name, and the JSON text of its arguments."""

    @property
    def name(self) -> str: ...

    @property
    def arguments_json(self) -> str: ...


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How a family of models writes tool calls."""

    parser_type: Callable[[Turn], CallParser]
    before_name: str
    before_arguments: str
    after_arguments: str
    separator: str
    """Between two calls."""
    start: str = ""
    """Before the first call."""
    end: str = ""
    """After the last one."""
    thinking_mark: str = ""
    """What opens the model's thinking; empty if the format has no thinking."""

    def parser(self, turn: Turn) -> CallParser:
        """Return a parser for one turn's text."""
        return self.parser_type(turn)

    def parse(self, text: str, turn: Turn) -> ParsedText:
        """Parse a whole turn's text."""
        parser = self.parser(turn)
        parser.feed(text)
        return parser.finish()

    def write(self, calls: Iterable[Call]) -> str:
        """Write calls so that `parse` reads them back, with their arguments as they are."""
        return f"{self.start}{self.separator.join(map(self._write_call, calls))}{self.end}"

    def _write_call(self, call: Call) -> str:
        name = json.dumps(call.name, ensure_ascii=False)[1:-1]
        arguments = call.arguments_json or "{}"
        return f"{self.before_name}{name}{self.before_arguments}{arguments}{self.after_arguments}"
