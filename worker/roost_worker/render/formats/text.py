"""Parses turns in which nothing can be called, and turns that follow a grammar. Pure."""

from roost_worker.render.formats.call_syntax import CallSyntax
from roost_worker.render.formats.calls import WrittenCall
from roost_worker.render.formats.json_scanner import JsonScanner
from roost_worker.render.formats.parser import ENDS_WITHIN, CallParser, Thinking, Turn

MAX_NAME_CHARS = 512
"""The call of a tool with a longer name is read when it is complete."""


class TextParser(CallParser):
    """Reads thinking and text, of which nothing is a call."""

    def __init__(self, turn: Turn, thinking: Thinking | None) -> None:
        super().__init__(turn, thinking, self._outside)

    def _outside(self, text: str, at: int) -> int:
        self._out.text(text[at:])
        return len(text)

    def _finish(self) -> None:
        self._out.text(self._unread)


class ConstrainedParser(CallParser):
    """Reads what a grammar allowed, by the grammar's own structure: one call or, without tools, JSON.

    When the text ends early, only what the grammar would have forced may be missing of a call.
    """

    def __init__(self, turn: Turn, syntax: CallSyntax) -> None:
        super().__init__(turn, None, self._before_arguments if turn.tools else self._json)
        self._syntax = syntax
        self._begun = False

    def _json(self, text: str, at: int) -> int:
        self._out.text(text[at:])
        return len(text)

    def _before_arguments(self, text: str, at: int) -> int:
        """Read the name, which is left unread until the arguments begin."""
        before, mark = self._syntax.start + self._syntax.before_name, self._syntax.before_arguments
        limit = at + len(before) + MAX_NAME_CHARS + len(mark)
        end = text.find(mark, at, limit)
        start = end + len(mark)
        if end < 0 and len(text) >= limit:
            self._step = self._rest
            return at
        if end < 0 or start == len(text):
            return at
        name = text[at:end].removeprefix(before)
        if text[start] == "{" and name in self._turn.tools and name not in self._turn.checked:
            self._begun, self._step = True, self._arguments
            self._out.begin_call(name, "")
        else:
            self._step = self._rest
        return start

    def _arguments(self, text: str, at: int) -> int:
        end = self._scanner.scan(text, at)
        self._out.arguments(text[at:end])
        if self._scanner.done or self._scanner.error:
            self._step = self._rest
        return end

    def _rest(self, text: str, at: int) -> int:
        return len(text)

    def _finish(self) -> None:
        text = "".join(self._chunks)
        if not self._turn.tools:
            self._out.text(self._unread)
            return
        call = self._call(text)
        if isinstance(call, WrittenCall):
            self._add_call(call, begun=self._begun)
        else:
            self._warn(call)
            self._out.text(text)

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
