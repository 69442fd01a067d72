"""Which of a detached step's events are logged, and in which form. Pure.

What is logged is what clients get, so that a stream that begins again anywhere is the same stream: an event is logged
before a client has it, and deltas are put together before they are logged, never afterwards.
"""

from collections.abc import Iterable
from dataclasses import replace

from roost.contract.events import Committed, Delta, Event, Restarted, Started
from roost.contract.parts import PartLog, begins_with, joined
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.detached import DetachedState

MOST_LOGGED_BYTES = 8_000_000
"""Longest text of an answer whose events are logged."""


class EventsToLog:
    """Takes a step's events, and gives those that are to be logged next.

    Output that starts again is not logged again: what has been logged stays, and the new output has to begin with it.
    """

    def __init__(
        self,
        *,
        is_streamed: bool,
        state: DetachedState = DetachedState.QUEUED,
        logged: Iterable[Event] = (),
    ) -> None:
        """`is_streamed`: whether the step's client has asked for its events; without them only the state is kept.
        `state` and `logged` are what earlier runs have come to."""
        self._is_streamed = is_streamed
        self._waiting: list[Event] = []
        self._output = PartLog(part for event in logged if isinstance(event, Delta) for part in event.parts)
        """The output that was taken to be logged."""
        self._repeated: PartLog | None = None
        """Output that has started again, as long as it may only repeat what was taken."""
        self.state = state
        """How far the step has come."""
        self._is_new_state = False

    def __bool__(self) -> bool:
        """Whether there is something to report."""
        return bool(self._waiting) or self._is_new_state

    def add(self, event: Event) -> None:
        """Raises Refused: WORKER_LOST when output that has started again differs from what was logged;
        MESSAGE_TOO_LARGE when the output is longer than what may be logged."""
        if isinstance(event, Started) and self.state is DetachedState.QUEUED:
            self.state, self._is_new_state = DetachedState.IN_PROGRESS, True
        if not self._is_streamed:
            return
        match event:
            case Restarted():
                self._repeated = PartLog() if self._output.size else None
            case Delta():
                self._add_delta(event)
            case Started():
                self._waiting.append(event)
            case Committed():
                if self._repeated is not None:
                    raise _differs()
                self._waiting.append(event)

    def take(self) -> list[Event]:
        """Takes out the events that wait."""
        taken, self._waiting, self._is_new_state = self._waiting, [], False
        return taken

    def _add_delta(self, delta: Delta) -> None:
        delta = logged_delta(delta)
        if delta.text_offset > MOST_LOGGED_BYTES:
            message = f"the answer is longer than the {MOST_LOGGED_BYTES} bytes that are kept; send it without `stream`"
            raise Refused(Reason.MESSAGE_TOO_LARGE, message)
        if self._repeated is not None:
            self._repeated.extend(delta.parts)
            if self._repeated.size < self._output.size:
                return
            if not begins_with(self._repeated.after(0), self._output.after(0)):
                raise _differs()
            delta = replace(delta, parts=self._repeated.after(self._output.size), part_offset=self._output.size)
            self._repeated = None
        self._output.extend(delta.parts)
        last = self._waiting[-1] if self._waiting else None
        if isinstance(last, Delta):
            parts = joined((*last.parts, *delta.parts))
            self._waiting[-1] = replace(delta, parts=parts, part_offset=last.part_offset)
        else:
            self._waiting.append(delta)


def logged_delta(delta: Delta) -> Delta:
    """A delta with its parts alone, since no client of a detached step sees ids. Its offsets are those of its end, so
    that a run that takes over knows what to ask for."""
    return replace(
        delta,
        text="",
        token_ids=(),
        logprobs=(),
        token_offset=delta.token_offset + len(delta.token_ids),
        text_offset=delta.text_offset + len(delta.text.encode()),
    )


def _differs() -> Refused:
    message = "the output was lost, and written again it differs from what clients may have; send the request again"
    return Refused(Reason.WORKER_LOST, message)
