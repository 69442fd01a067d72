"""Parses formats without a closing mark, whose calls are recognised only when the whole text is calls. Pure."""

import re

from roost_worker.render.formats.calls import NOT_A_CALL
from roost_worker.render.formats.json_scanner import JsonScanner, skip_space
from roost_worker.render.formats.parser import CallParser, ParsedText, Turn, begins

_LOOKS_LIKE_A_CALL = re.compile(r'[\[{\s]*"name"\s*:')


class WholeTextParser(CallParser):
    """Reads an optional mark and then JSON values, until something else shows that the text is not calls."""

    def __init__(self, turn: Turn, *, key: str, mark: str, bracket: str, separators: str, levels: int) -> None:
        """A value begins with `bracket`, and the brackets of `levels` levels close one call.

        `separators` are the characters that may stand between values; without any there is one value.
        """
        super().__init__(turn, key, self._start)
        self._mark, self._bracket, self._levels = mark, bracket, levels
        self._separators = re.compile(f"[{re.escape(separators)} \t\n\r]*")
        self._several = bool(separators)
        self._source: list[str] = []
        self._values: list[str] = []
        self._problem = ""
        self._marked = False

    def finish(self) -> ParsedText:
        missing = self._scanner.missing(self._levels) if self._turn.constrained else None
        if self._step == self._json and missing is not None:
            self._source.append(missing)
            self._end_value()
        if self._step == self._after_json:
            refused = [item for value in self._values for item in self._read_calls(value, NOT_A_CALL)]
            return self._result(["\n".join(item.source for item in refused)])
        text = "".join(self._chunks)
        start = skip_space(text, 0)
        if _LOOKS_LIKE_A_CALL.match(text, start + len(self._mark) * self._marked):
            self._warn(self._problem or "the text ends within it")
        return self._result(())

    def _start(self, text: str, at: int) -> int:
        at = skip_space(text, at)
        if at == len(text):
            return at
        if not self._marked and text.startswith(self._mark, at):
            self._marked = True
            return at + len(self._mark)
        if not self._marked and begins(text, at, self._mark):
            return at
        return self._begin_value(text, at)

    def _begin_value(self, text: str, at: int) -> int:
        if text[at] == self._bracket:
            self._scanner = JsonScanner()
            self._step = self._json
        else:
            self._step, self._problem = self._skip, "other text stands beside it"
        return at

    def _json(self, text: str, at: int) -> int:
        end = self._scanner.scan(text, at)
        self._source.append(text[at:end])
        if self._scanner.error:
            self._step, self._problem = self._skip, self._scanner.error
        elif self._scanner.done:
            self._end_value()
        return end

    def _end_value(self) -> None:
        self._values.append("".join(self._source))
        self._source = []
        self._step = self._after_json

    def _after_json(self, text: str, at: int) -> int:
        separators = self._separators.match(text, at)
        at = separators.end() if separators else at
        if at == len(text):
            return at
        if self._several:
            return self._begin_value(text, at)
        self._step, self._problem = self._skip, "other text stands beside it"
        return at

    def _skip(self, text: str, at: int) -> int:
        return len(text)
