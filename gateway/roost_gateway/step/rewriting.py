"""What becomes of a session's steps in its next log: which keep their tokens, and which lose their thinking. Pure.

With `thinking: drop` thinking leaves the log when a user's message begins another turn, as the templates of models that
think have it. A turn is a step that begins with a user's message, and the steps with tools' results that follow it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from roost.store.records import LogEntry
from roost.store.rules import opens_turn, thinking_from
from roost_gateway.step.attempt import StepAttempt


@dataclass(frozen=True, slots=True)
class Rewriting:
    """How a log is written again, before a step."""

    kept: int = 0
    """First steps, which keep their tokens; the others are rendered again."""
    without_thinking: int = 0
    """First steps, whose thinking is not among the new log's tokens."""
    kept_ids: bytes = b""
    """Ids of the first `kept` steps, little-endian uint32."""


def drops_thinking(attempt: StepAttempt) -> bool:
    """Whether thinking that may be in the log leaves it before the step. A step of whose output the client has some
    goes on in the log in which it was begun."""
    descriptor = attempt.descriptor
    return (
        attempt.call.drops_thinking
        and descriptor.thinking_from is not None
        and descriptor.bound_revision != ""
        and attempt.output.client_attempt is None
    )


def rewriting(attempt: StepAttempt, entries: Sequence[LogEntry]) -> Rewriting | None:
    """How to write the log of `entries` for the revision and the step of an attempt; None when it may stay as it is."""
    former, without = attempt.descriptor, earlier_turns(attempt, entries)
    if former.model_revision != attempt.need.model_revision:
        return Rewriting(0, without)
    first = thinking_from(entries[:without], former.thinking_from or 0)
    return None if first is None else Rewriting(first, without)


def earlier_turns(attempt: StepAttempt, entries: Sequence[LogEntry]) -> int:
    """How many of the first steps belong to turns before that of the attempt, if the pool drops their thinking."""
    if not attempt.pool.drops_thinking:
        return 0
    if attempt.call.drops_thinking:
        return len(entries)
    begin = (place for place in reversed(range(len(entries))) if opens_turn(entries[place]))
    return next(begin, 0)  # not its `index`: behind a fold that is its place in the old log
