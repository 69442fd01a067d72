"""Hermes' format, of ChatML and Qwen models: `<tool_call>{"name", "arguments"}</tool_call>` anywhere in the text.

A wrapper may also hold a list of calls, as SmolLM2's documentation has it. Text between thinking marks holds no calls.
"""

import re

from roost_worker.render.formats.call_format import CallFormat
from roost_worker.render.formats.json_scanner import JsonScanner, skip_space
from roost_worker.render.formats.parser import CallParser, ParsedText, Turn, begins

OPEN, CLOSE = "<tool_call>", "</tool_call>"
THINK, END_THINK = "<think>", "</think>"
_OUTSIDE = re.compile(f"{OPEN}|{THINK}")
_THINKING = re.compile(END_THINK)


class HermesParser(CallParser):
    """Reads text, thinking and wrapped calls. A wrapper that breaks is text up to the character that breaks it."""

    def __init__(self, turn: Turn) -> None:
        super().__init__(turn, "arguments", self._thinking if turn.in_thinking else self._outside)
        self._kept: list[str] = []
        self._wrapper: list[str] = []
        """What was read of the wrapper that is open."""
        self._source: list[str] = []
        """What was read of its JSON."""

    def finish(self) -> ParsedText:
        self._wrapper.append(self._unread)
        missing = self._scanner.missing(levels=1) if self._turn.constrained else None
        if self._step == self._json and missing is not None:
            self._source.append(missing)
            self._step = self._after_json
        if self._step == self._after_json:
            self._take_calls()
        elif self._step in (self._before_json, self._json):
            self._refuse("the text ends within it")
        else:
            self._kept.append(self._unread)
        return self._result(self._kept)

    def _outside(self, text: str, at: int) -> int:
        mark = _OUTSIDE.search(text, at)
        if mark is None:
            return self._keep_unmarked(text, at, (OPEN, THINK))
        self._kept.append(text[at : mark.start()])
        if mark[0] == THINK:
            self._kept.append(THINK)
            self._step = self._thinking
        else:
            self._wrapper, self._source = [OPEN], []
            self._step = self._before_json
        return mark.end()

    def _thinking(self, text: str, at: int) -> int:
        mark = _THINKING.search(text, at)
        if mark is None:
            return self._keep_unmarked(text, at, (END_THINK,))
        self._kept.append(text[at : mark.end()])
        self._step = self._outside
        return mark.end()

    def _keep_unmarked(self, text: str, at: int, marks: tuple[str, ...]) -> int:
        """Keep the text up to where its end may begin a mark; return that position."""
        start = text.rfind("<", max(at, len(text) - max(map(len, marks))))
        end = start if start >= 0 and any(begins(text, start, mark) for mark in marks) else len(text)
        self._kept.append(text[at:end])
        return end

    def _before_json(self, text: str, at: int) -> int:
        start = skip_space(text, at)
        self._wrapper.append(text[at:start])
        if start == len(text):
            return start
        if text[start] in "{[":
            self._scanner = JsonScanner()
            self._step = self._json
        else:
            self._refuse(f"no JSON object follows {OPEN}")
        return start

    def _json(self, text: str, at: int) -> int:
        end = self._scanner.scan(text, at)
        self._wrapper.append(text[at:end])
        self._source.append(text[at:end])
        if self._scanner.error:
            self._refuse(self._scanner.error)
        elif self._scanner.done:
            self._step = self._after_json
        return end

    def _after_json(self, text: str, at: int) -> int:
        start = skip_space(text, at)
        self._wrapper.append(text[at:start])
        if text.startswith(CLOSE, start):
            self._wrapper.append(CLOSE)
            self._take_calls()
            self._step = self._outside
            return start + len(CLOSE)
        if not begins(text, start, CLOSE):
            self._refuse(f"{CLOSE} does not follow its JSON")
        return start

    def _take_calls(self) -> None:
        count_before = len(self._calls)
        refused = self._read_calls("".join(self._source))
        if len(self._calls) > count_before:
            self._kept += (item.source for item in refused)
        else:
            self._kept += self._wrapper

    def _refuse(self, reason: str) -> None:
        self._warn(reason)
        self._kept += self._wrapper
        self._step = self._outside


HERMES = CallFormat(
    parser_type=HermesParser,
    before_name=f'{OPEN}\n{{"name": "',
    before_arguments='", "arguments": ',
    after_arguments=f"}}\n{CLOSE}",
    separator="\n",
    thinking_mark=THINK,
)
