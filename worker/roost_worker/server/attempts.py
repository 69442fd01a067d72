"""Attempts: output as it grows, who reads it, and how it ends. Pure, except for what a reader waits for."""

import asyncio
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from roost.contract.heads import AttemptRef
from roost.contract.parts import cut
from roost.contract.steps import gathered_by
from roost.contract.why import KvEviction
from roost_worker.engine.messages import TokenLogprob
from roost_worker.render.formats import Turn
from roost_worker.server.output import OutputBuffer, OutputCursor, OutputMessage, OutputSlice
from roost_worker.server.part_stream import PartStream
from roost_worker.server.session_log import SessionLog


class TextSource(Protocol):
    """Turns output ids into text; implemented by `roost_worker.render.detokenizer.TextStream`."""

    @property
    def stopped_at(self) -> int | None: ...

    @property
    def stop_string(self) -> str: ...

    def push(self, ids: Sequence[int]) -> str: ...

    def flush(self) -> str: ...


class Ending(StrEnum):
    """Why an attempt ended without a result to commit."""

    FENCED = "fenced"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    FAILED = "failed"
    UNREADABLE = "unreadable"
    GRAMMAR = "grammar"
    LOST = "lost"


class OutputReader:
    """A stream's position in an attempt's output, and the pace at which it is read."""

    def __init__(self, cursor: OutputCursor) -> None:
        self.cursor = cursor
        self.interval = 0.0
        """Seconds for which output gathers after a read, at most."""
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    def has_read(self, cursor: OutputCursor) -> None:
        """Move to `cursor`, the end of the output, and let output gather from now on."""
        self.cursor, self._due = cursor, gathered_by(time.monotonic(), self.interval)
        self._changed.clear()

    def grown(self) -> None:
        """Wake the reader when its next read is due; the first output wakes it at once."""
        if self._timer is not None:
            return
        seconds = self._due - time.monotonic()
        if seconds > 0:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.wake)
        else:
            self.wake()

    def wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._changed.set()

    async def changed(self) -> None:
        """Wait until there is something to do since the last call: output is due, or the attempt has ended."""
        await self._changed.wait()
        self._changed.clear()


class Attempt:
    """An attempt at a step. Its engine request keeps its id when a newer attempt takes it over.

    `log` is the session's log that the step continues (empty for one-shot work), `prompt_ids` the rendered step.
    """

    def __init__(self, request_id: str, session: str, ref: AttemptRef) -> None:
        self.request_id, self.session, self.ref = request_id, session, ref
        self.log: SessionLog | None = None
        self.prompt_ids: array[int] = array("I")
        self.turn = Turn(frozenset())
        self.call_seed = ref.nonce
        """What the ids of the step's calls follow from."""
        self.part_stream: PartStream | None = None
        self.constrained = False
        self.unenforced: Mapping[str, str] = {}
        self.expected_cached = 0
        self.cached_tokens = 0
        self.eviction: KvEviction | None = None
        """What was dropped of the session's KV since its last step here."""
        self.ahead_tokens = 0
        """Of the cached tokens, those that were rebuilt ahead of the step."""
        self.queue_seconds = 0.0
        self.gpu_seconds = 0.0
        self.output = OutputBuffer()
        self.submitted = False
        self.result: str | None = None
        self.message: OutputMessage | None = None
        self.ending: Ending | None = None
        self.error = ""
        self.orphaned_at: float | None = None
        self.deadline: asyncio.TimerHandle | None = None
        self.reader: OutputReader | None = None
        self._text: TextSource | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more comes from the engine."""
        return self.result is not None or self.ending is not None

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete: later ids are dropped."""
        return self._text is not None and self._text.stopped_at is not None

    @property
    def stop_string(self) -> str:
        """The stop string that ended the text; empty when another thing did."""
        return self._text.stop_string if self._text is not None else ""

    def begin(self, prompt_ids: "array[int]", text: TextSource, replayed: Sequence[int] = ()) -> int | None:
        """Set the rendered prompt and take the output to replay; return as `take` does."""
        self.prompt_ids, self._text = prompt_ids, text
        return self.take(replayed) if replayed else None

    def take(self, ids: Sequence[int], logprobs: Sequence[TokenLogprob] = ()) -> int | None:
        """Take ids from the engine. Return the number of output ids when these complete a stop string, else None."""
        assert self._text is not None
        if self.stopped:
            return None
        text = self._text.push(ids)
        cut = self._text.stopped_at
        kept = len(ids) if cut is None else cut - len(self.output.ids)
        self.output.append(ids[:kept], text, logprobs[:kept])
        if self.reader is not None:
            self.reader.grown()
        return cut

    def read_as(self, message: OutputMessage) -> None:
        """Take the complete output as a message, with the parts that only its end shows. The first one counts."""
        if self.message is None:
            self.message = message
            self.output.parts.extend(cut(message.parts, self.output.parts.size))

    def finish(self, stop: str) -> None:
        """Complete the output. `stop` is the engine's reason."""
        assert self._text is not None
        self.output.append((), self._text.flush())
        self.result = stop
        self._wake()

    def end(self, ending: Ending, error: str = "") -> None:
        """End the attempt without a result. Only the first ending counts."""
        if self.ending is None:
            self.ending, self.error = ending, error
            self._wake()
        self.disarm()

    def disarm(self) -> None:
        """Stop the deadline's timer."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def attach(self, cursor: OutputCursor) -> OutputReader:
        """Give the output to a new reader, and wake the previous one, which then sees that it was displaced."""
        displaced, self.reader = self.reader, OutputReader(cursor)
        self.orphaned_at = None
        if displaced is not None:
            displaced.wake()
        return self.reader

    def detach(self, reader: OutputReader | None, now: float) -> None:
        """Make the attempt an orphan, because the reader's stream broke, unless another reader has it."""
        if self.reader is reader:
            self.reader, self.orphaned_at = None, now

    def next_slice(self, reader: OutputReader) -> OutputSlice | None:
        """Return the output after the reader's cursor, and move the cursor. Return None when there is nothing new."""
        output = self.output.read(reader.cursor)
        if output is not None:
            reader.has_read(output.end)
        return output

    def _wake(self) -> None:
        if self.reader is not None:
            self.reader.wake()


class AttemptTable:
    """Attempts by engine request and by (session, ref). A session has at most one; one-shot work has no session."""

    def __init__(self) -> None:
        self._by_request: dict[str, Attempt] = {}
        self._by_ref: dict[tuple[str, AttemptRef], Attempt] = {}
        self._by_session: dict[str, Attempt] = {}

    def __len__(self) -> int:
        return len(self._by_request)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(tuple(self._by_request.values()))

    def add(self, attempt: Attempt) -> None:
        """Add an attempt. Raise ValueError when its session still has one, or its request id is taken."""
        if attempt.request_id in self._by_request or attempt.session in self._by_session:
            raise ValueError(f"session {attempt.session!r} still has an attempt")
        self._by_request[attempt.request_id] = attempt
        self._by_ref[attempt.session, attempt.ref] = attempt
        if attempt.session:
            self._by_session[attempt.session] = attempt

    def find(self, session: str, ref: AttemptRef) -> Attempt | None:
        return self._by_ref.get((session, ref))

    def of_session(self, session: str) -> Attempt | None:
        return self._by_session.get(session)

    def of_request(self, request_id: str) -> Attempt | None:
        return self._by_request.get(request_id)

    def rename(self, attempt: Attempt, ref: AttemptRef) -> None:
        """Let a newer attempt take this one over, under its own `ref`."""
        del self._by_ref[attempt.session, attempt.ref]
        attempt.ref = ref
        self._by_ref[attempt.session, ref] = attempt

    def remove(self, attempt: Attempt) -> None:
        """Forget an attempt; forgetting it twice does nothing."""
        if self._by_request.pop(attempt.request_id, None) is not None:
            del self._by_ref[attempt.session, attempt.ref]
            self._by_session.pop(attempt.session, None)

    def expired(self, now: float, keep_seconds: float) -> list[Attempt]:
        """Return orphans, finished or not, that no stream took over for `keep_seconds`."""
        return [
            attempt
            for attempt in self._by_request.values()
            if attempt.orphaned_at is not None and now - attempt.orphaned_at >= keep_seconds
        ]

    def check_integrity(self) -> None:
        """Raise AssertionError unless the three indexes have the same attempts."""
        assert {id(attempt) for attempt in self._by_ref.values()} == {id(a) for a in self._by_request.values()}
        assert all(self._by_ref[a.session, a.ref] is a for a in self._by_request.values())
        sessions = {a.session for a in self._by_request.values() if a.session}
        assert sessions == set(self._by_session)
        assert all(session == a.session for session, a in self._by_session.items())
