"""What every format's parser shares: chunks in, content, calls and warnings out. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from roost_worker.render.formats.calls import RefusedCall, WrittenCall, read_calls
from roost_worker.render.formats.json_scanner import JsonScanner

MAX_WARNINGS = 8

Step = Callable[[str, int], int]


@dataclass(frozen=True, slots=True)
class ParsedText:
    """A turn's text, read. `content` is the text without its calls, or all of it when there are none."""

    content: str
    calls: tuple[WrittenCall, ...] = ()
    warnings: tuple[str, ...] = ()
    """Why text that looks like a call is not one; at most `MAX_WARNINGS`, and then how many more."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What is known of a turn before its text comes."""

    tools: Collection[str]
    """Names that can be called."""
    in_thinking: bool = False
    """Whether the prompt has already opened the thinking."""
    constrained: bool = False
    """Whether a grammar allows exactly one call and nothing else, so that the brackets after it are certain."""


class CallParser(ABC):
    """A state machine over a turn's text. Any division into chunks gives the same result; time is linear.

    The state is a method that reads `text` from a position and returns where it stopped. It leaves unread only a mark
    or an escape sequence that may go on in the next chunk.
    """

    def __init__(self, turn: Turn, key: str, first: Step) -> None:
        self._turn, self._key = turn, key
        self._step = first
        self._scanner = JsonScanner()
        self._chunks: list[str] = []
        self._unread = ""
        self._calls: list[WrittenCall] = []
        self._warnings: list[str] = []
        self._more_warnings = 0

    def feed(self, chunk: str) -> None:
        """Take the next part of the text."""
        self._chunks.append(chunk)
        text, at = self._unread + chunk, 0
        while at < len(text):
            before = at, self._step
            at = self._step(text, at)
            if (at, self._step) == before:
                break
        self._unread = text[at:]

    @abstractmethod
    def finish(self) -> ParsedText:
        """End the text."""

    def _result(self, kept: Sequence[str]) -> ParsedText:
        """Return the result with `kept` as content, if there are calls."""
        if self._more_warnings:
            self._warnings.append(f"{self._more_warnings} more like these")
        content = "".join(kept).strip() if self._calls else "".join(self._chunks)
        return ParsedText(content, tuple(self._calls), tuple(self._warnings))

    def _read_calls(self, source: str, unremarkable: str = "") -> list[RefusedCall]:
        """Add the calls in a JSON text; return what is not one, with a warning unless the reason is `unremarkable`."""
        items = read_calls(source, self._turn.tools, self._key)
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
