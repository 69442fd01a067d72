"""Turns output ids into text as they come: only whole characters, and nothing that may become a stop string."""

import codecs
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roost_worker.render.renderer import Renderer

_decode = codecs.getincrementaldecoder("utf-8")


def count_tokens_of(text_length: int, ids: Iterable[int], renderer: "Renderer") -> int:
    """Return how many of the output `ids` it takes to write the first `text_length` characters of their text."""
    stream, count = TextStream(renderer), 0
    for token in ids:
        if text_length <= 0:
            break
        count += 1
        text_length -= len(stream.push((token,)))
    return count


class TextStream:
    """The text of one step's output.

    The text depends on the ids alone, not on how they are grouped into calls, so that a replay on another worker gives
    the same text at the same ids. Work per id is bounded by the longest stop string.
    """

    def __init__(self, renderer: "Renderer", stop: Sequence[str] = (), *, min_tokens: int = 0) -> None:
        """The text ends before the first of the `stop` strings that is complete after `min_tokens` or more ids."""
        self._bytes = renderer.token_bytes
        self._stop = tuple(text for text in stop if text)
        self._min_tokens = min_tokens
        self._decoder = _decode(errors="replace")
        self._strip_space = renderer.vocabulary.strips_first_space
        self._pending = ""
        self._finished = False
        self.count = 0
        """Ids taken, up to the one that completed a stop string."""
        self.stopped_at: int | None = None
        """Number of ids up to and including the one that completed a stop string; None before that."""
        self.stop_string = ""
        """The stop string before which the text ended; empty before that."""

    def push(self, ids: Iterable[int]) -> str:
        """Take output ids; return the text that is certain now. Ids after a stop string are ignored."""
        parts: list[str] = []
        for token in ids:
            if self.stopped_at is not None:
                break
            self.count += 1
            parts.append(self._take(self._decoder.decode(self._token(token))))
        return "".join(parts)

    def flush(self) -> str:
        """End the output: return the text that was pending, an incomplete character as U+FFFD."""
        if self._finished or self.stopped_at is not None:
            return ""
        self._finished = True
        rest, self._pending = self._pending + self._decoder.decode(b"", final=True), ""
        return rest

    def _token(self, token: int) -> bytes:
        data = self._bytes[token] if token < len(self._bytes) else b""
        if self._strip_space and data:
            self._strip_space = False
            return data.removeprefix(b" ")
        return data

    def _take(self, new: str) -> str:
        if not new or not self._stop:
            return new
        window = self._pending + new
        if self.count >= self._min_tokens:
            places = [(place, text) for text in self._stop if (place := self._completed(text, window)) >= 0]
            if places:
                self.stopped_at, self._pending = self.count, ""
                end, self.stop_string = min(places)
                return window[:end]
        kept = self._possible_stop(window)
        self._pending = window[len(window) - kept :]
        return window[: len(window) - kept]

    def _completed(self, text: str, window: str) -> int:
        """Return where a stop string that the end of `window`, after what was pending, completes begins in it, or -1.

        One within what was pending was complete before, when it did not count yet.
        """
        return window.find(text, max(0, len(self._pending) - len(text) + 1))

    def _possible_stop(self, window: str) -> int:
        """Return the length of the longest end of `window` that begins a stop string."""
        longest = min(len(window), max(map(len, self._stop)) - 1)
        for length in range(longest, 0, -1):
            end = window[len(window) - length :]
            if any(text.startswith(end) for text in self._stop):
                return length
        return 0
