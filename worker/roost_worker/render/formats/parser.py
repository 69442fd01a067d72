"""What every parser of a turn's text shares: chunks in; content, reasoning, calls and warnings out. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from roost.contract.events import Part
from roost.contract.parts import joined
from roost_worker.render.formats.calls import RefusedCall, WrittenCall, read_calls
from roost_worker.render.formats.json_scanner import JsonScanner, skip_space
from roost_worker.render.formats.part_writer import PartWriter

MAX_WARNINGS = 8
ENDS_WITHIN = "the text ends within it"

Step = Callable[[str, int], int]


@dataclass(frozen=True, slots=True)
class ParsedText:
    """A turn's text, read. `content` is the text without thinking and calls, or all of it when there are neither.

    Beside calls and after thinking, `content` has no blanks at its end; after thinking or a call none at its start.
    """

    content: str
    calls: tuple[WrittenCall, ...] = ()
    warnings: tuple[str, ...] = ()
    """Why text that looks like a call is not one; at most `MAX_WARNINGS`, and then how many more."""
    reasoning: str = ""
    """The thinking, with which the turn begins."""
    parts: tuple[Part, ...] = field(default=(), compare=False)
    """The turn in order: content and reasoning joined are all of their parts. A call that broke off is among them, with
    its text as text after it. Ids of calls are those that the model wrote before the arguments, or else empty."""


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
    checked: Collection[str] = frozenset()
    """Tools of which a constrained call is judged when it is complete, and not written before."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """The marks around a model's thinking."""

    open: str
    close: str


class CallParser(ABC):
    """A state machine over a turn's text. Any division into chunks gives the same result; time is linear.

    `parts` grows with the text. What is among them is never taken back, so that a turn's parts so far are the beginning
    of all of them.

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
        self._out = PartWriter()
        self._calls: list[WrittenCall] = []
        self._warnings: list[str] = []
        self._more_warnings = 0
        self._thinks = False
        self._closes_thinking = turn.in_thinking or turn.thinking_tokens
        """Whether text after a mark of thinking is thinking even if it is cut off; else its end decides."""
        self._thought: list[str] = []
        """Thinking whose end decides."""
        if turn.in_thinking and thinking is not None:
            self._begin_thinking()

    @property
    def parts(self) -> Sequence[Part]:
        """The parts so far, neighbours not joined."""
        return self._out.parts

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
        self._finish()
        if self._more_warnings:
            self._warnings.append(f"{self._more_warnings} more like these")
        self._out.end(strips_end=bool(self._calls) or self._thinks)
        return ParsedText(
            self._out.content,
            tuple(self._calls),
            tuple(self._warnings),
            self._out.reasoning_text,
            joined(self._out.parts),
        )

    @abstractmethod
    def _finish(self) -> None:
        """End the text, of which `_unread` was not read."""

    def _start_of_turn(self, text: str, at: int) -> int:
        assert self._marks is not None
        start = skip_space(text, at)
        self._out.text(text[at:start])
        if text.startswith(self._marks.open, start):
            self._out.drop_blanks()
            self._begin_thinking()
            return start + len(self._marks.open)
        if not begins(text, start, self._marks.open):
            self._step = self._first
        return start

    def _begin_thinking(self) -> None:
        self._thinks = self._out.strips_start = True
        self._step = self._in_thinking

    def _in_thinking(self, text: str, at: int) -> int:
        assert self._marks is not None
        close = self._marks.close
        place = text.find(close, at)
        end = held_back(text, at, (close,)) if place < 0 else place
        if self._closes_thinking:
            self._out.reasoning(text[at:end])
        else:
            self._thought.append(text[at:end])
        if place < 0:
            return end
        self._out.reasoning("".join(self._thought))
        self._step = self._first
        return place + len(close)

    def _end_within_thinking(self) -> None:
        """End a text that does not close its thinking. Its mark is text if the model is not known to think."""
        unread, self._unread = self._unread, ""
        if self._closes_thinking:
            self._out.reasoning(unread)
            return
        self._thinks = self._out.strips_start = False
        self._step = self._first
        self._read("".join(self._chunks))

    def _read_calls(self, source: str, key: str, unremarkable: str = "") -> list[WrittenCall | RefusedCall]:
        """Return what each object in a JSON text is, with a warning for what is not a call unless the reason is
        `unremarkable`."""
        items = read_calls(source, self._turn.tools, key)
        for item in items:
            if isinstance(item, RefusedCall) and item.reason != unremarkable:
                self._warn(item.reason)
        return items

    def _add_call(self, call: WrittenCall, *, begun: bool = False) -> None:
        """Add a call that is whole; `begun` says whether its name and arguments are written already."""
        if not begun:
            self._out.begin_call(call.name, call.id)
            self._out.arguments(call.arguments_json)
        self._calls.append(replace(call, number=self._out.calls - 1))
        self._out.strips_start = True

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
    first = max(at, len(text) - longest + 1)
    if not any(text.find(mark[0], first) >= 0 for mark in marks):
        return len(text)
    for start in range(first, len(text)):
        if any(begins(text, start, mark) for mark in marks):
            return start
    return len(text)
