"""Parses formats whose calls have an opening mark, and may stand anywhere in the text. Pure."""

import re
from dataclasses import dataclass

from roost_worker.render.formats.calls import RefusedCall, WrittenCall
from roost_worker.render.formats.json_scanner import JsonScanner, skip_space
from roost_worker.render.formats.parser import ENDS_WITHIN, CallParser, Thinking, Turn, begins, held_back

MAX_HEADER_CHARS = 512
"""A longer text between a call's opening mark and its arguments is not a call's."""
FENCE = "```"
_S = r"[ \t\n\r]*"
_CALL_START = re.compile(rf'\{{{_S}"name"{_S}:{_S}"(?P<name>[A-Za-z0-9_.-]+)"{_S},{_S}"arguments"{_S}:{_S}\{{')
"""An object up to its arguments, as nearly all models write it. Others are read when they are complete."""


@dataclass(frozen=True, slots=True)
class Wrapper:
    """The marks of a call."""

    open: str
    close: str = ""
    """Empty when a call ends with its arguments."""
    header: re.Pattern[str] | None = None
    """Text between the mark and the arguments, with groups `name` and `id`. None when the wrapper holds objects with
    the name and the arguments in them."""
    around: tuple[str, ...] = ()
    """Marks around all calls, which say nothing more."""


class WrappedParser(CallParser):
    """Reads thinking, then text and wrapped calls. A wrapper that breaks is text up to the character that breaks it."""

    def __init__(self, turn: Turn, wrapper: Wrapper, thinking: Thinking | None) -> None:
        super().__init__(turn, thinking, self._outside)
        self._wrapper = wrapper
        self._all_marks = (wrapper.open, *wrapper.around)
        self._any_mark = re.compile("|".join(map(re.escape, self._all_marks)))
        self._header_end = re.compile("|".join(map(re.escape, (wrapper.open, "{"))))
        self._waiting: list[str] = []
        """Text from a mark around calls on, which is dropped if a call follows."""
        self._raw: list[str] = []
        """What was read of the wrapper that is open."""
        self._source: list[str] = []
        """What was read of its JSON."""
        self._name = self._id = ""
        self._fenced = False
        self._nested = False
        """Whether an object or array has begun in the wrapper's object."""
        self._begun = self._in_arguments = False
        """Whether the wrapper's call is written already, and whether its arguments come now."""

    def _finish(self) -> None:
        if self._step == self._after_json:
            self._raw.append(self._unread)
            self._take()
        elif self._step in (self._before_json, self._header, self._json):
            self._raw.append(self._unread)
            self._refuse(ENDS_WITHIN)
        else:
            self._keep(self._unread)
        self._out.text("".join(self._waiting))

    def _keep(self, text: str) -> None:
        if self._waiting:
            self._waiting.append(text)
        else:
            self._out.text(text)

    def _outside(self, text: str, at: int) -> int:
        mark = self._any_mark.search(text, at)
        if mark is None:
            end = held_back(text, at, self._all_marks)
            self._keep(text[at:end])
            return end
        self._keep(text[at : mark.start()])
        if mark[0] == self._wrapper.open:
            self._raw, self._source = [mark[0]], []
            self._fenced = self._nested = self._begun = self._in_arguments = False
            self._step = self._header if self._wrapper.header else self._before_json
        elif not self._calls:
            self._waiting.append(mark[0])
        return mark.end()

    def _before_json(self, text: str, at: int) -> int:
        start = skip_space(text, at)
        self._raw.append(text[at:start])
        if start == len(text):
            return start
        if text[start] in "{[":
            self._begin_json()
        else:
            self._refuse(f"no JSON object follows {self._wrapper.open}")
        return start

    def _header(self, text: str, at: int) -> int:
        """Read up to the arguments. A header is short, so that it is left unread until its end has come."""
        assert self._wrapper.header is not None
        end = self._header_end.search(text, at, at + MAX_HEADER_CHARS)
        if end is None and len(text) - at < MAX_HEADER_CHARS:
            return at
        header = self._wrapper.header.fullmatch(text, at, end.start()) if end and end[0] == "{" else None
        if header is None:
            self._refuse(f"no name and JSON object follow {self._wrapper.open}")
            return at
        self._raw.append(header[0])
        self._name, self._id = header["name"], header["id"] or ""
        self._fenced = FENCE in header[0]
        if self._name in self._turn.tools:
            self._begin_call(self._name)
        self._begin_json()
        return header.end()

    def _begin_call(self, name: str) -> None:
        self._out.begin_call(name, self._id)
        self._begun = self._in_arguments = True

    def _begin_json(self) -> None:
        self._scanner = JsonScanner()
        self._step = self._json

    def _json(self, text: str, at: int) -> int:
        end = self._scanner.scan(text, at, 1 if self._wrapper.header is None else None)
        self._raw.append(text[at:end])
        self._source.append(text[at:end])
        if self._in_arguments:
            self._out.arguments(text[at:end])
        if self._scanner.error:
            self._refuse(self._scanner.error)
        elif self._scanner.done and not self._wrapper.close:
            self._take()
            self._step = self._outside
        elif self._scanner.done:
            self._step = self._after_json
        elif self._wrapper.header is None:
            self._watch_arguments()
        return end

    def _watch_arguments(self) -> None:
        """Begin the call where the arguments in its object begin, and note where they end."""
        if self._scanner.depth == 1:
            self._in_arguments = False
        elif not self._nested:
            self._nested = True
            start = _CALL_START.fullmatch("".join(self._source))
            if start and start["name"] in self._turn.tools:
                self._begin_call(start["name"])
                self._out.arguments("{")

    def _after_json(self, text: str, at: int) -> int:
        close = self._wrapper.close
        start = skip_space(text, at)
        self._raw.append(text[at:start])
        if self._fenced and text.startswith(FENCE, start):
            self._fenced = False
            self._raw.append(FENCE)
            return start + len(FENCE)
        if text.startswith(close, start):
            self._raw.append(close)
            self._take()
            self._step = self._outside
            return start + len(close)
        if not begins(text, start, close) and not (self._fenced and begins(text, start, FENCE)):
            self._refuse(f"{close} does not follow its JSON")
        return start

    def _take(self) -> None:
        """Take the calls of the wrapper; what of it is not a call stays text."""
        items = self._items("".join(self._source))
        if not any(isinstance(item, WrittenCall) for item in items):
            self._keep("".join(self._raw))
            return
        self._end_waiting()
        for item in items:
            if isinstance(item, WrittenCall):
                self._add_call(item, begun=self._begun)
            else:
                self._keep(item.source)

    def _items(self, source: str) -> list[WrittenCall | RefusedCall]:
        if self._wrapper.header is None:
            return self._read_calls(source, "arguments")
        if self._name in self._turn.tools:
            return [WrittenCall(self._name, source, self._id)]
        self._warn(f"the session has no tool {self._name[:64]!r}")
        return []

    def _end_waiting(self) -> None:
        """Write the text that waited for a call, without the marks around calls."""
        for text in self._waiting:
            if text not in self._wrapper.around:
                self._out.text(text)
        self._waiting = []

    def _refuse(self, reason: str) -> None:
        self._warn(reason)
        self._keep("".join(self._raw))
        self._step = self._outside
