"""Parses turns in which nothing can be called, and turns that follow a grammar. Pure."""

from collections.abc import Sequence

from roost_worker.render.formats.call_syntax import CallSyntax
from roost_worker.render.formats.calls import WrittenCall
from roost_worker.render.formats.json_scanner import JsonScanner
from roost_worker.render.formats.parser import ENDS_WITHIN, CallParser, Thinking, Turn


class TextParser(CallParser):
    """Reads thinking and text, of which nothing is a call."""

    def __init__(self, turn: Turn, thinking: Thinking | None) -> None:
        super().__init__(turn, thinking, self._outside)
        self._kept: list[str] = []

    def _outside(self, text: str, at: int) -> int:
        self._kept.append(text[at:])
        return len(text)

    def _finish(self) -> Sequence[str]:
        return self._kept


class ConstrainedParser(CallParser):
    """Reads what a grammar allowed, by the grammar's own structure: one call or, without tools, JSON.

    When the text ends early, only what the grammar would have forced may be missing of a call.
    """

    def __init__(self, turn: Turn, syntax: CallSyntax) -> None:
        super().__init__(turn, None, self._outside)
        self._syntax = syntax

    def _outside(self, text: str, at: int) -> int:
        return len(text)

    def _finish(self) -> Sequence[str]:
        if not self._turn.tools:
            return ()
        call = self._call("".join(self._chunks))
        if isinstance(call, WrittenCall):
            self._calls.append(call)
        else:
            self._warn(call)
        return ()

    def _call(self, text: str) -> WrittenCall | str:
        """Return the call, or why the text is not a call."""
        syntax, scanner = self._syntax, JsonScanner()
        name, _, rest = text.removeprefix(syntax.start + syntax.before_name).partition(syntax.before_arguments)
        end = scanner.scan(rest, 0) if name in self._turn.tools and rest.startswith("{") else 0
        if scanner.error:
            return scanner.error
        if not scanner.done or not (syntax.after_arguments + syntax.end).startswith(rest[end:]):
            return ENDS_WITHIN
        return WrittenCall(name, rest[:end])
