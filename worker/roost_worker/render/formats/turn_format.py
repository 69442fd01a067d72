"""A turn-and-tool format: how a kind of model writes turns, thinking and tool calls. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from roost_worker.render.formats.call_ids import UNIQUE, CallIds
from roost_worker.render.formats.call_syntax import CallSyntax
from roost_worker.render.formats.parser import CallParser, ParsedText, Thinking, Turn
from roost_worker.render.formats.text import ConstrainedParser, TextParser


@dataclass(frozen=True, slots=True)
class TurnFormat:
    """All that is particular to a format. What is written, what a grammar forces and what is parsed come from here."""

    name: str
    """Its name in `template.json`."""
    turns: str
    """Jinja template of the turns, for models whose own is not prefix-stable; empty if the format has none."""
    tool_prompt: str
    """Jinja that shows tools as system text, for templates that ignore `tools`."""
    calls: CallSyntax
    call_parser: Callable[[Turn], CallParser]
    """Builds the parser of a turn in which tools can be called freely."""
    tokens: tuple[str, ...] = ()
    """Control tokens that its turns are written with."""
    signs: tuple[str, ...] = ()
    """Other tokens that a vocabulary has if its model was trained on this format."""
    marks: tuple[str, ...] = ()
    """Marks of calls and thinking. They are text to the parser, even where they are control tokens."""
    thinking: Thinking | None = None
    turn_ends: tuple[str, ...] = ()
    """Control tokens that end an assistant's turn or message, after which nothing closes it."""
    call_ids: CallIds = UNIQUE
    families: tuple[str, ...] = ()
    """Models that were trained on it, for people: `docs/models.md` lists them."""

    def parser(self, turn: Turn) -> CallParser:
        """Return a parser for one turn's text."""
        if turn.constrained:
            return ConstrainedParser(turn, self.calls)
        return self.call_parser(turn) if turn.tools else TextParser(turn, self.thinking)

    def parse(self, text: str, turn: Turn) -> ParsedText:
        """Parse a whole turn's text."""
        parser = self.parser(turn)
        parser.feed(text)
        return parser.finish()

    def thinking_of(self, text: str) -> str:
        """Return the thinking with which a text that has reasoning begins, marks included."""
        assert self.thinking is not None
        thinking, close, _ = text.partition(self.thinking.close)
        return thinking + close


def exact(template: str) -> str:
    """Return a Jinja template that keeps its newlines although chat templates run with trim_blocks."""
    return template.replace("\n", "{{ '\\n' }}")
