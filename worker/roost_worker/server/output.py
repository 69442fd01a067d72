"""An attempt's output, kept whole so that any reader can continue from where another stopped. Pure."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from roost_worker.render.formats import CallIds, Turn, TurnFormat
from roost_worker.render.messages import ToolCall

TokenLogprob = tuple[float, tuple[tuple[int, float], ...]]
"""A token's log-probability, then (id, log-probability) of the most likely ones."""
_UNKNOWN: TokenLogprob = (0.0, ())


@dataclass(frozen=True, slots=True)
class OutputCursor:
    """What a reader has so far: tokens, and UTF-8 bytes of text."""

    tokens: int = 0
    text_bytes: int = 0


@dataclass(frozen=True, slots=True)
class OutputSlice:
    """Output after a cursor. The offsets are the cursor's."""

    token_offset: int
    token_ids: "array[int]"
    text_offset: int
    text: str
    logprobs: tuple[TokenLogprob, ...]

    @property
    def end(self) -> OutputCursor:
        return OutputCursor(self.token_offset + len(self.token_ids), self.text_offset + len(self.text.encode()))


@dataclass(frozen=True, slots=True)
class OutputMessage:
    """A complete output as the message that it is. `content` is its text without thinking and calls."""

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    warnings: tuple[str, ...] = ()
    """Why text that looks like a call is not one."""
    reasoning: str = ""
    """The model's thinking, without its marks."""


def read_message(text: str, turn_format: TurnFormat, turn: Turn, earlier_text: Callable[[], str]) -> OutputMessage:
    """Return the message in an output's text. Calls get new ids, so read an output once.

    An id that the model wrote is kept when the format's models were trained on their own, and when neither an earlier
    call nor `earlier_text`, the text of the session's log, has it. That is asked for once, if an id depends on it.
    """
    log_text = cache(earlier_text)
    parsed = turn_format.parse(text, turn)
    calls = list[ToolCall]()
    for call in parsed.calls:
        taken = {other.id for other in calls}
        keeps = _may_keep(call.id, turn_format.call_ids) and call.id not in taken and call.id not in log_text()
        calls.append(ToolCall(call.id if keeps else turn_format.call_ids.new(), call.name, call.arguments_json))
    return OutputMessage(parsed.content, tuple(calls), parsed.warnings, parsed.reasoning)


def _may_keep(call_id: str, ids: CallIds) -> bool:
    return ids.written is not None and ids.written.fullmatch(call_id) is not None


class OutputBuffer:
    """Ids, text and log-probabilities in the order of generation. Text lags behind ids; neither is ever taken back."""

    def __init__(self) -> None:
        self.ids: array[int] = array("I")
        self._text = bytearray()
        self._logprobs: list[TokenLogprob] = []

    @property
    def text(self) -> str:
        return self._text.decode()

    def append(self, ids: Sequence[int], text: str, logprobs: Sequence[TokenLogprob] = ()) -> None:
        """Append what one iteration produced. `logprobs` has one entry for each id, or is empty."""
        if logprobs and len(logprobs) != len(ids):
            raise ValueError(f"{len(logprobs)} logprobs for {len(ids)} ids")
        if logprobs:
            self._logprobs += [_UNKNOWN] * (len(self.ids) - len(self._logprobs))
            self._logprobs += logprobs
        self.ids.extend(ids)
        self._text += text.encode()

    def can_resume(self, cursor: OutputCursor) -> bool:
        """Return whether a reader can continue at `cursor`: not beyond the output, and not within a character."""
        if cursor.tokens > len(self.ids) or cursor.text_bytes > len(self._text):
            return False
        return cursor.text_bytes == len(self._text) or self._text[cursor.text_bytes] & 0xC0 != 0x80

    def read(self, cursor: OutputCursor) -> OutputSlice | None:
        """Return everything after `cursor`, or None when there is nothing new."""
        if cursor.tokens >= len(self.ids) and cursor.text_bytes >= len(self._text):
            return None
        return OutputSlice(
            cursor.tokens,
            self.ids[cursor.tokens :],
            cursor.text_bytes,
            self._text[cursor.text_bytes :].decode(),
            tuple(self._logprobs[cursor.tokens :]),
        )
