"""Parses formats whose calls have an opening mark, and may stand anywhere in the text. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from roost_worker.render.formats.calls import WrittenCall
from roost_worker.render.formats.json_scanner import JsonScanner, skip_space
from roost_worker.render.formats.parser import ENDS_WITHIN, CallParser, Thinking, Turn, begins, held_back

MAX_HEADER_CHARS = 512
"""A longer text between a call's opening mark and its arguments is not a call's."""
FENCE = "```"


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
        self._kept: list[str] = []
        self._raw: list[str] = []
        """What was read of the wrapper that is open."""
        self._source: list[str] = []
        """What was read of its JSON."""
        self._name = self._id = ""
        self._fenced = False

    def _finish(self) -> Sequence[str]:
        if self._step == self._after_json:
            self._raw.append(self._unread)
            self._take()
        elif self._step in (self._before_json, self._header, self._json):
            self._raw.append(self._unread)
            self._refuse(ENDS_WITHIN)
        else:
            self._kept.append(self._unread)
        return [text for text in self._kept if not self._calls or text not in self._wrapper.around]

    def _outside(self, text: str, at: int) -> int:
        mark = self._any_mark.search(text, at)
        if mark is None:
            end = held_back(text, at, self._all_marks)
            self._kept.append(text[at:end])
            return end
        self._kept.append(text[at : mark.start()])
        if mark[0] == self._wrapper.open:
            self._raw, self._source, self._fenced = [mark[0]], [], False
            self._step = self._header if self._wrapper.header else self._before_json
        else:
            self._kept.append(mark[0])
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
        self._begin_json()
        return header.end()

    def _begin_json(self) -> None:
        self._scanner = JsonScanner()
        self._step = self._json

    def _json(self, text: str, at: int) -> int:
        end = self._scanner.scan(text, at)
        self._raw.append(text[at:end])
        self._source.append(text[at:end])
        if self._scanner.error:
            self._refuse(self._scanner.error)
        elif self._scanner.done and not self._wrapper.close:
            self._take()
            self._step = self._outside
        elif self._scanner.done:
            self._step = self._after_json
        return end

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
        source, count_before = "".join(self._source), len(self._calls)
        if self._wrapper.header is None:
            refused = [item.source for item in self._read_calls(source, "arguments")]
        else:
            refused = []
            self._take_named(WrittenCall(self._name, source, self._id))
        self._kept += refused if len(self._calls) > count_before else self._raw

    def _take_named(self, call: WrittenCall) -> None:
        if call.name in self._turn.tools:
            self._calls.append(call)
        else:
            self._warn(f"the session has no tool {call.name[:64]!r}")

    def _refuse(self, reason: str) -> None:
        self._warn(reason)
        self._kept += self._raw
        self._step = self._outside
