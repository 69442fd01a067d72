"""What a step has produced so far, and the events that its client gets."""

import asyncio
from array import array
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from roost.contract.events import (
    Committed,
    Delta,
    Event,
    FinishReason,
    Part,
    Restarted,
    Started,
    TokenLogprobs,
)
from roost.contract.heads import AttemptRef
from roost.contract.messages import ToolCall
from roost.contract.parts import PartLog, cut, parts_of_message
from roost.contract.refused import invalid
from roost.contract.steps import Cursor
from roost.contract.why import KvEviction, Why


class OutputGapError(Exception):
    """What a worker sent does not continue the output."""


@dataclass(frozen=True, slots=True)
class KvReport:
    """What a worker says of a session's KV beside the number of cached tokens. Older workers say nothing."""

    eviction: KvEviction | None = None
    """What it has dropped since the session's last step there; None when it remembers nothing."""
    block_tokens: int = 0
    """0 when it is not known."""
    ahead_tokens: int = 0
    """Of the cached tokens, those that it had rebuilt ahead of the step."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a worker says of an output that is complete."""

    reason: FinishReason | None
    text: str
    """Everything that the model wrote."""
    content: str
    """The text without thinking and tool calls."""
    tool_calls: tuple[ToolCall, ...]
    output_tokens: int
    cached_tokens: int
    """Tokens of the context found in the worker's cache."""
    warnings: tuple[str, ...] = ()
    """Why text that looks like a tool call is not one."""
    reasoning: str = ""
    """The text between thinking marks."""
    stop_string: str = ""
    """The stop string that ended the text."""
    gpu_seconds: float = 0.0
    """Of the worker's devices; 0 from a worker that does not measure it."""
    reasoning_tokens: int = 0
    """Output tokens that the reasoning took, its marks included."""
    kv: KvReport = KvReport()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The message as parts, in the order in which models mostly write."""
        return parts_of_message(self.content, self.reasoning, self.tool_calls)


@dataclass(frozen=True, slots=True)
class RenderedStep:
    """A step of a log in the tokens of another revision, as little-endian uint32 ids."""

    prompt_ids: bytes
    output_ids: bytes
    """Of the output's text; what ends the turn belongs to the next step's prompt."""


class StepOutput:
    """Ids, text and parts in order, and the cursor of what was sent.

    Deltas to the client are slices from the cursor to the end: contiguous by construction, and with as many of the
    worker's deltas in one as arrived while the last one was being written.
    """

    def __init__(self, attempt: AttemptRef, received: Cursor | None = None) -> None:
        """`received` is what the client has of the output of an earlier call."""
        self.attempt = attempt
        self.lineage = [attempt]
        """Attempts whose output this is, oldest first."""
        self.prompt_ids = array("I")
        self.ids = array("I")
        self.text = bytearray()
        self.logprobs: list[TokenLogprobs] = []
        self.parts = PartLog()
        self.accepted = False
        """Whether a worker has rendered the prompt."""
        self.finished: StepOutcome | None = None
        """None until it is complete."""
        has_some = received is not None and (received.tokens > 0 or received.text_bytes > 0)
        self.client_attempt = received.attempt if received is not None and has_some else None
        """Earlier attempt whose output the client has some of, until it is known whether this output continues it."""
        self._sent_tokens = received.tokens if received is not None else 0
        self._sent_bytes = received.text_bytes if received is not None else 0
        self._sent_parts = received.parts if received is not None else 0

    def accept(self, prompt_ids: "array[int]") -> None:
        """Takes the rendered prompt. Only the first one counts: a replay repeats it."""
        if not self.accepted:
            self.prompt_ids = prompt_ids
            self.accepted = True

    def resumed(self, orphan: AttemptRef) -> bool:
        """Continues the output of `orphan`. Returns False when the client has output of another attempt."""
        self.lineage = [orphan, self.attempt]
        known = self.client_attempt in (None, orphan)
        self.client_attempt = None
        return known

    def append(
        self,
        token_ids: Iterable[int],
        text: str,
        token_offset: int,
        text_offset: int,
        logprobs: Iterable[TokenLogprobs] = (),
        parts: Sequence[Part] = (),
        part_offset: int = 0,
    ) -> None:
        """Takes a worker's delta. Raises OutputGapError when it does not begin where the output ends."""
        if token_offset != len(self.ids) or text_offset != len(self.text):
            raise OutputGapError(
                f"delta at token {token_offset}, byte {text_offset}, "
                f"but the output ends at {len(self.ids)}, {len(self.text)}"
            )
        self.ids.extend(token_ids)
        self.text += text.encode()
        if logprobs:
            self.logprobs.extend(logprobs)
        if parts:
            self._append_parts(parts, part_offset)

    def _append_parts(self, parts: Sequence[Part], offset: int) -> None:
        """Parts that are here already are left out: how far they lag behind the text may differ between workers."""
        if offset > self.parts.size:
            raise OutputGapError(f"parts at unit {offset}, but those of the output end at {self.parts.size}")
        self.parts.extend(cut(parts, self.parts.size - offset))

    def start_afresh(self) -> bool:
        """Gives up the output of earlier attempts. Returns whether the client has output that is now lost."""
        sent_anything = self._sent_tokens > 0 or self._sent_bytes > 0
        lost = sent_anything and (self.behind_client or not self.accepted or self.client_attempt is not None)
        self.client_attempt = None
        return lost

    def finish(self, finish: StepOutcome) -> None:
        """Takes the end of the output, with text that the worker held back. Raises OutputGapError when more is
        missing."""
        text, whole = bytes(self.text), finish.text.encode()
        if finish.output_tokens != len(self.ids) or not whole.startswith(text):
            raise OutputGapError(
                f"the worker finished {finish.output_tokens} tokens and {len(whole)} bytes, "
                f"but {len(self.ids)} and {len(text)} came, or others"
            )
        self.text += whole[len(text) :]
        if not self.parts.size:  # of a worker that knows no parts
            self.parts.extend(finish.parts)
        self.finished = finish

    @property
    def behind_client(self) -> bool:
        """Whether the client has more than is here, so that what it has would be generated again."""
        return self._sent_tokens > len(self.ids) or self._sent_bytes > len(self.text)

    def rewind(self) -> None:
        """Sends everything again, from the start."""
        self._sent_tokens = self._sent_bytes = self._sent_parts = 0

    def take(self) -> Delta | None:
        """Takes out what the client does not have yet; None when it has everything.

        Raises Refused: INVALID_REQUEST when the client's cursor lies inside a character.
        """
        tokens, size = len(self.ids), len(self.text)
        if tokens <= self._sent_tokens and size <= self._sent_bytes and self.parts.size <= self._sent_parts:
            return None
        first, start = min(self._sent_tokens, tokens), min(self._sent_bytes, size)
        if start < size and self.text[start] & 0xC0 == 0x80:
            raise invalid([("received.text_bytes", f"{start} lies inside a character of the text")])
        delta = Delta(
            text=self.text[start:].decode(),
            token_ids=self.ids[first:],
            token_offset=self._sent_tokens,
            text_offset=self._sent_bytes,
            logprobs=tuple(self.logprobs[first:]) if self.logprobs else (),
            attempt=self.attempt,
            parts=self.parts.after(self._sent_parts),
            part_offset=self._sent_parts,
        )
        self._sent_tokens, self._sent_bytes = max(tokens, self._sent_tokens), max(size, self._sent_bytes)
        self._sent_parts = max(self.parts.size, self._sent_parts)
        return delta


class Outbox:
    """The events of one step for its client. A slow client slows down neither the worker nor the commit.

    Events leave in the order in which they were put in; output leaves as deltas from its cursor, all of it before
    the last event.
    """

    def __init__(self, *, holds_output: bool = False) -> None:
        """`holds_output`: all output leaves at once, before the last event."""
        self._holds_output = holds_output
        self._events: deque[Event] = deque()
        self._output: StepOutput | None = None
        self._last: Committed | None = None
        self._closed = False
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()

    def put(self, event: Event) -> None:
        self._events.append(event)
        self._wake.set()

    def started(self, output: StepOutput, why: Why) -> None:
        """The worker that `why` names has begun or taken over; deltas are taken from `output` from now on."""
        self._output = output
        self.put(Started(why.worker, len(output.prompt_ids), why.cached_tokens, output.attempt, why))

    def restarted(self, output: StepOutput, reason: str) -> None:
        """What the client has is void: `output` is sent from its start."""
        output.rewind()
        self.put(Restarted(reason, output.attempt))

    def more(self) -> None:
        """The output has grown."""
        if not self._holds_output:
            self._wake.set()

    def committed(self, event: Committed, output: StepOutput) -> None:
        """The last event; what is left of the output goes before it."""
        self._output = output
        self._last = event
        self._wake.set()
        self._ended.set()

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._wake.set()
        self._ended.set()

    async def events(self) -> AsyncIterator[Event]:
        """Every event, until the last one or `close`."""
        while True:
            self._wake.clear()
            while (event := self._next()) is not None:
                yield event
            if self._last is not None:
                yield self._last
                return
            if self._closed:
                return
            await self._wake.wait()

    async def rest(self, seconds: float) -> None:
        """Lets output gather for so long, or until nothing more comes."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            pass

    def _next(self) -> Event | None:
        if self._events:
            return self._events.popleft()
        if self._output is None or (self._holds_output and self._last is None):
            return None
        return self._output.take()
