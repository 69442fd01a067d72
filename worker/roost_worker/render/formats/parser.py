"""What every parser of a turn's text shares: chunks in; content, reasoning, calls and warnings out. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from roost_worker.render.formats.calls import RefusedCall, WrittenCall, read_calls
from roost_worker.render.formats.json_scanner import JsonScanner, skip_space

MAX_WARNINGS = 8
ENDS_WITHIN = "the text ends within it"

Step = Callable[[str, int], int]


@dataclass(frozen=True, slots=True)
class ParsedText:
    """A turn's text, read. `content` is the text without thinking and calls, or all of it when there are neither."""

    content: str
    calls: tuple[WrittenCall, ...] = ()
    warnings: tuple[str, ...] = ()
    """Why text that looks like a call is not one; at most `MAX_WARNINGS`, and then how many more."""
    reasoning: str = ""
    """The thinking, with which the turn begins."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What is known of a turn before its text comes."""

    tools: Collection[str]
    """Names that can be called."""
    in_thinking: bool = False
    """Whether the prompt has already opened the thinking."""
    thinking_tokens: bool = False
    """Whether the marks of thinking are tokens of the vocabulary, so that one that is not closed was cut off."""
    constrained: bool = False
    """Whether a grammar allows nothing but one call of these tools or, without tools, nothing but JSON."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """The marks around a model's thinking."""

    open: str
    close: str


class CallParser(ABC):
    """A state machine over a turn's text. Any division into chunks gives the same result; time is linear.

    Thinking is what the prompt opened, or what the turn begins with. Marks of thinking anywhere else are text: an
    answer may well be about them.

    The state is a method that reads `text` from a position and returns where it stopped. It leaves unread only a mark
    or an escape sequence that may go on in the next chunk.
    """

    def __init__(self, turn: Turn, thinking: Thinking | None, first: Step) -> None:
        self._turn, self._marks = turn, thinking
        self._first = first
        self._step = self._start_of_turn if thinking else first
        self._scanner = JsonScanner()
        self._chunks: list[str] = []
        self._unread = ""
        self._reasoning: list[str] = []
        self._calls: list[WrittenCall] = []
        self._warnings: list[str] = []
        self._more_warnings = 0
        self._thinks = turn.in_thinking and thinking is not None
        if self._thinks:
            self._step = self._in_thinking

    def feed(self, chunk: str) -> None:
        """Take the next part of the text."""
        self._chunks.append(chunk)
        self._read(chunk)

    def _read(self, chunk: str) -> None:
        text, at = self._unread + chunk, 0
        while at < len(text):
            before = at, self._step
            at = self._step(text, at)
            if (at, self._step) == before:
                break
        self._unread = text[at:]

    def finish(self) -> ParsedText:
        """End the text."""
        if self._step == self._in_thinking:
            self._end_within_thinking()
        content = "".join(self._finish())
        if self._more_warnings:
            self._warnings.append(f"{self._more_warnings} more like these")
        content = content.strip() if self._calls or self._thinks else "".join(self._chunks)
        return ParsedText(content, tuple(self._calls), tuple(self._warnings), "".join(self._reasoning).strip())

    @abstractmethod
    def _finish(self) -> Sequence[str]:
        """End the text; return the parts of the content. It counts only if there are calls or thinking."""

    def _start_of_turn(self, text: str, at: int) -> int:
        assert self._marks is not None
        at = skip_space(text, at)
        if text.startswith(self._marks.open, at):
            self._thinks, self._step = True, self._in_thinking
            return at + len(self._marks.open)
        if not begins(text, at, self._marks.open):
            self._step = self._first
        return at

    def _in_thinking(self, text: str, at: int) -> int:
        assert self._marks is not None
        close = self._marks.close
        place = text.find(close, at)
        if place < 0:
            end = held_back(text, at, (close,))
            self._reasoning.append(text[at:end])
            return end
        self._reasoning.append(text[at:place])
        self._step = self._first
        return place + len(close)

    def _end_within_thinking(self) -> None:
        """End a text that does not close its thinking. Its mark is text if the model is not known to think."""
        if self._turn.in_thinking or self._turn.thinking_tokens:
            self._reasoning.append(self._unread)
            self._unread = ""
            return
        self._thinks, self._step, self._unread = False, self._first, ""
        self._reasoning.clear()
        self._read("".join(self._chunks))

    def _read_calls(self, source: str, key: str, unremarkable: str = "") -> list[RefusedCall]:
        """Add the calls in a JSON text; return what is not one, with a warning unless the reason is `unremarkable`."""
        items = read_calls(source, self._turn.tools, key)
        self._calls += (item for item in items if isinstance(item, WrittenCall))
        refused = [item for item in items if isinstance(item, RefusedCall)]
        for item in refused:
            if item.reason != unremarkable:
                self._warn(item.reason)
        return refused

    def _warn(self, reason: str) -> None:
        if len(self._warnings) < MAX_WARNINGS:
            self._warnings.append(f"what looks like a tool call stays text: {reason}")
        else:
            self._more_warnings += 1


def begins(text: str, at: int, mark: str) -> bool:
    """Return whether `text` ends, after `at`, with a beginning of `mark`."""
    return len(text) - at < len(mark) and mark.startswith(text[at:])


def held_back(text: str, at: int, marks: Sequence[str]) -> int:
    """Return where the end of `text`, after `at`, may begin one of `marks`; its length if it does not."""
    longest = max(map(len, marks))
    for start in range(max(at, len(text) - longest + 1), len(text)):
        if any(begins(text, start, mark) for mark in marks):
            return start
    return len(text)
