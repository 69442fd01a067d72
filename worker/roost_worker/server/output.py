"""An attempt's output, kept whole so that any reader can continue from where another stopped. Pure."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from roost.contract.events import Part
from roost.contract.parts import PartLog, units
from roost_worker.engine.messages import TokenLogprob
from roost_worker.render.formats import CallNamer, Turn, TurnFormat
from roost_worker.render.messages import ToolCall

_UNKNOWN: TokenLogprob = (0.0, ())


@dataclass(frozen=True, slots=True)
class OutputCursor:
    """What a reader has so far: tokens, UTF-8 bytes of text, and units of parts (`roost.contract.parts`)."""

    tokens: int = 0
    text_bytes: int = 0
    parts: int = 0


@dataclass(frozen=True, slots=True)
class OutputSlice:
    """Output after a cursor. The offsets are the cursor's."""

    token_offset: int
    token_ids: "array[int]"
    text_offset: int
    text: str
    logprobs: tuple[TokenLogprob, ...]
    part_offset: int = 0
    parts: tuple[Part, ...] = ()

    @property
    def end(self) -> OutputCursor:
        return OutputCursor(
            self.token_offset + len(self.token_ids),
            self.text_offset + len(self.text.encode()),
            self.part_offset + sum(map(units, self.parts)),
        )


@dataclass(frozen=True, slots=True)
class OutputMessage:
    """A complete output as the message that it is. `content` is its text without thinking and calls."""

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    warnings: tuple[str, ...] = ()
    """Why text that looks like a call is not one."""
    reasoning: str = ""
    """The model's thinking, without its marks."""
    parts: tuple[Part, ...] = ()
    """The whole output as parts."""
    reasoning_tokens: int = 0
    """Output tokens that the thinking took, its marks included."""


def read_message(
    text: str, turn_format: TurnFormat, turn: Turn, seed: bytes, earlier_text: Callable[[], str]
) -> OutputMessage:
    """Return the message in an output's text. Ids of calls follow from the step's `seed`, as `CallNamer` says."""
    parsed = turn_format.parse(text, turn)
    namer = CallNamer(turn_format.call_ids, seed, earlier_text)
    parts = tuple(map(namer.named, parsed.parts))
    calls = tuple(ToolCall(namer.given[call.number], call.name, call.arguments_json) for call in parsed.calls)
    return OutputMessage(parsed.content, calls, parsed.warnings, parsed.reasoning, parts)


class OutputBuffer:
    """Ids, text and log-probabilities in the order of generation. Text lags behind ids, and `parts`, which are written
    from outside, lag behind text; nothing is ever taken back."""

    def __init__(self) -> None:
        self.ids: array[int] = array("I")
        self._text = bytearray()
        self._logprobs: list[TokenLogprob] = []
        self.parts = PartLog()

    @property
    def text(self) -> str:
        return self._text.decode()

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of the text."""
        return len(self._text)

    def text_after(self, start: int, most: int) -> str:
        """Return the text from byte `start` on: about `most` bytes, in whole characters."""
        end = start + most
        while end < len(self._text) and self._text[end] & 0xC0 == 0x80:
            end += 1
        return self._text[start:end].decode()

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
        text_is_read = cursor.tokens >= len(self.ids) and cursor.text_bytes >= len(self._text)
        if text_is_read and cursor.parts >= self.parts.size:
            return None
        return OutputSlice(
            cursor.tokens,
            self.ids[cursor.tokens :],
            cursor.text_bytes,
            self._text[cursor.text_bytes :].decode(),
            tuple(self._logprobs[cursor.tokens :]),
            cursor.parts,
            self.parts.after(cursor.parts),
        )
