"""Which of a detached step's events are logged, and in which form. Pure.

What is logged is what clients get, so that a stream that begins again anywhere is the same stream: an event is logged
before a client has it, and deltas are put together before they are logged, never afterwards.
"""

from dataclasses import replace

from roost.contract.events import Committed, Delta, Event, Restarted, Started
from roost.contract.parts import joined
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.detached import DetachedState

MOST_LOGGED_BYTES = 8_000_000
"""Longest text of an answer whose events are logged."""


class EventsToLog:
    """Takes a step's events, and gives those that are to be logged next."""

    def __init__(self, *, is_streamed: bool, has_output: bool = False) -> None:
        """`is_streamed`: whether the step's client has asked for its events; without them only the state is kept.
        `has_output`: whether output has been logged by an earlier run."""
        self._is_streamed = is_streamed
        self._has_output = has_output
        self._waiting: list[Event] = []
        self.state = DetachedState.QUEUED
        """How far the step has come."""

    def __bool__(self) -> bool:
        """Whether any event waits."""
        return bool(self._waiting)

    def add(self, event: Event) -> None:
        """Raises Refused: WORKER_LOST when output begins again that has been logged, and so cannot be taken back;
        MESSAGE_TOO_LARGE when the output is longer than what may be logged."""
        if isinstance(event, Restarted) and self._has_output:
            raise Refused(Reason.WORKER_LOST, f"the output starts again: {event.reason}; send the request again")
        if isinstance(event, Started):
            self.state = DetachedState.IN_PROGRESS
        if not self._is_streamed or not isinstance(event, Started | Delta | Committed):
            return
        if isinstance(event, Delta):
            self._add_delta(logged_delta(event))
        else:
            self._waiting.append(event)

    def take(self) -> list[Event]:
        """Takes out the events that wait."""
        taken, self._waiting = self._waiting, []
        return taken

    def _add_delta(self, delta: Delta) -> None:
        if delta.text_offset > MOST_LOGGED_BYTES:
            message = f"the answer is longer than the {MOST_LOGGED_BYTES} bytes that are kept; send it without `stream`"
            raise Refused(Reason.MESSAGE_TOO_LARGE, message)
        self._has_output = True
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
