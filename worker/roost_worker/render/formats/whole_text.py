"""Parses formats without a mark around each call, whose calls take up the whole text. Pure."""

import re

from roost_worker.render.formats.calls import NOT_A_CALL, WrittenCall
from roost_worker.render.formats.json_scanner import JsonScanner, skip_space
from roost_worker.render.formats.parser import ENDS_WITHIN, CallParser, Turn, begins, held_back

_LOOKS_LIKE_A_CALL = re.compile(r'[\[{\s]*"name"\s*:')
_BESIDE = "other text stands beside it"


class WholeTextParser(CallParser):
    """Reads an optional mark and then JSON values, until something else shows that the text is not calls.

    Text may come before the mark, when `text_before_mark` says so. What may be calls is written at the end of the text,
    which alone shows that nothing else stands beside them.
    """

    def __init__(
        self, turn: Turn, *, key: str, mark: str, bracket: str, separators: str, text_before_mark: bool
    ) -> None:
        """A value begins with `bracket`. `separators` may stand between values; without any there is one value."""
        super().__init__(turn, None, self._start)
        self._key, self._mark, self._bracket = key, mark, bracket
        self._separators = re.compile(f"[{re.escape(separators)} \t\n\r]*")
        self._several = bool(separators)
        self._text_before_mark = text_before_mark
        self._before = 0
        """Characters of text before the mark."""
        self._held: list[str] = []
        """What was read of a text that may be calls."""
        self._source: list[str] = []
        self._values: list[str] = []
        self._problem = ""
        self._marked = False

    def _finish(self) -> None:
        if self._step == self._after_json:
            if self._take_values():
                return
        else:
            text = "".join(self._chunks)
            start = skip_space(text, self._before)
            if _LOOKS_LIKE_A_CALL.match(text, start + len(self._mark) * self._marked):
                self._warn(self._problem or ENDS_WITHIN)
        self._out.text("".join((*self._held, self._unread)))

    def _take_values(self) -> bool:
        """Write the calls among the values, and as text what is not one, each on a line. Return False when there are no
        calls."""
        items = [item for value in self._values for item in self._read_calls(value, self._key, NOT_A_CALL)]
        if not any(isinstance(item, WrittenCall) for item in items):
            return False
        self._out.drop_blanks()
        for item in items:
            if isinstance(item, WrittenCall):
                self._add_call(item)
            else:
                self._out.text("\n" + item.source if self._out.has_text else item.source)
        return True

    def _hold(self, text: str, at: int, end: int) -> int:
        self._held.append(text[at:end])
        return end

    def _break(self, problem: str) -> None:
        """What was held is text."""
        self._step, self._problem = self._skip, problem
        self._out.text("".join(self._held))
        self._held = []

    def _start(self, text: str, at: int) -> int:
        at = self._hold(text, at, skip_space(text, at))
        if at == len(text) or begins(text, at, self._mark):
            return at
        self._step = self._first_value
        if text.startswith(self._mark, at):
            self._marked = True
            at = self._hold(text, at, at + len(self._mark))
        return at

    def _first_value(self, text: str, at: int) -> int:
        at = self._hold(text, at, skip_space(text, at))
        return at if at == len(text) else self._begin_value(text, at)

    def _begin_value(self, text: str, at: int) -> int:
        if text[at] == self._bracket:
            self._scanner = JsonScanner()
            self._step = self._json
        else:
            self._break(_BESIDE)
        return at

    def _json(self, text: str, at: int) -> int:
        end = self._hold(text, at, self._scanner.scan(text, at))
        self._source.append(text[at:end])
        if self._scanner.error:
            self._break(self._scanner.error)
        elif self._scanner.done:
            self._values.append("".join(self._source))
            self._source = []
            self._step = self._after_json
        return end

    def _after_json(self, text: str, at: int) -> int:
        separators = self._separators.match(text, at)
        at = self._hold(text, at, separators.end() if separators else at)
        if at == len(text):
            return at
        if self._several:
            return self._begin_value(text, at)
        self._break(_BESIDE)
        return at

    def _skip(self, text: str, at: int) -> int:
        if self._marked or not self._text_before_mark:
            self._out.text(text[at:])
            return len(text)
        place = text.find(self._mark, at)
        end = held_back(text, at, (self._mark,)) if place < 0 else place
        self._out.text(text[at:end])
        if place < 0:
            return end
        self._before = sum(map(len, self._chunks)) - len(text) + place
        self._source, self._values, self._problem = [], [], ""
        self._marked, self._step = True, self._first_value
        return self._hold(text, place, place + len(self._mark))
