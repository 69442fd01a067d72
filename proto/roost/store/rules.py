"""Rules of logs and their heads that every store keeps. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from roost.contract import loghash
from roost.contract.heads import Head
from roost.contract.lease import LEASE_PERIOD_SECONDS, LEASE_TTL_SECONDS
from roost.contract.messages import MessageRole
from roost.contract.reasons import Reason
from roost.contract.why import RebuildCause
from roost.store.records import CommitRequest, Descriptor, LogEntry, MigrateRequest

ID_BYTES = 4
"""Bytes of a packed token id."""
AGING_SECONDS = 10.0
"""Waiting time that is worth one class, in a gateway's queue and among the store's waiters."""
AGING_MS = round(AGING_SECONDS * 1000)
QUARANTINE_MS = 600_000
"""How long a session refuses a step that killed workers."""
RESIDENCY_DELAY_MS = round((LEASE_TTL_SECONDS + LEASE_PERIOD_SECONDS / 2) * 1000)
"""A lease that ends at T was published with residency gathered at T minus this, or later."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rebuild_cause(log: Descriptor) -> RebuildCause | None:
    """Why no worker need have the log cached, as far as its record shows; None when its owner should have it."""
    if log.former is not None and log.former.steps == log.steps:
        is_moved = log.former.model_revision != log.model_revision
        return RebuildCause.MODEL_CHANGED if is_moved else RebuildCause.THINKING_DROPPED
    if log.forked_from is not None and log.inherited_steps == log.steps:
        return RebuildCause.FORKED
    return None if log.owner else RebuildCause.EVICTED_ON_REQUEST


def aged_class(priority: int, periods: int) -> int:
    """The class as which a step waits that has waited for so many times `AGING_SECONDS`. Never below 0, the best one,
    where all are equal, so that the tenants' counters decide however long their steps have waited."""
    return min(priority, max(0, priority - periods))


def day_of(milliseconds: int) -> str:
    """The day (UTC) of a time, such as `2026-11-30`: the date of sessions that are opened then."""
    return (_EPOCH + timedelta(milliseconds=milliseconds)).date().isoformat()


def wrong_head(log: Descriptor, expected: Head | None, generation: int) -> Reason | None:
    """Why `expected` is not the head of a session's log; None when it is, or when the caller expects none.

    `generation` is that of `expected`, 0 when the caller does not know it. The last head of the former generation is as
    good as the head that migration made of it, until a step is committed.
    """
    if expected is None:
        return None
    former = None if log.former is None else _compare(expected, log.former.head)
    if generation > log.generation:
        place = 1
    elif generation == log.generation or (generation == 0 and former != 0):
        place = _compare(expected, log.head)
    elif log.former is None or former is None or 0 < generation < log.generation - 1:
        place = -1
    else:
        place = -1 if former == 0 and log.former.steps < log.steps else former
    if place == 0:
        return None
    return Reason.HEAD_MISMATCH if place < 0 else Reason.SESSION_ROLLED_BACK


def _compare(head: Head, other: Head) -> int:
    """Whether a head lies before (-1), at (0) or after (1) another head of the same log."""
    if head == other:
        return 0
    return -1 if head.length < other.length else 1


def holds_thinking(entry: LogEntry) -> bool:
    """Whether the model thought in a step. Its thinking is among the log's tokens unless it has been left out there."""
    return bool(entry.output.get("reasoning"))


def opens_turn(entry: LogEntry) -> bool:
    """Whether a step begins with a user's message."""
    return bool(entry.messages and entry.messages[0]["role"] == MessageRole.USER)


def thinking_from(entries: Sequence[LogEntry], start: int) -> int | None:
    """Index of the first step, from `start` on, in which the model thought; None when it did in none."""
    return next((index for index in range(start, len(entries)) if holds_thinking(entries[index])), None)


def check_commit(request: CommitRequest) -> None:
    """Raises ValueError when ids, counts and head of the request contradict one another."""
    entry, count = request.entry, len(request.packed_ids) // ID_BYTES
    if len(request.packed_ids) % ID_BYTES or entry.prompt_tokens + entry.output_tokens != count:
        raise ValueError(
            f"step {entry.step_id}: {len(request.packed_ids)} bytes of ids for "
            f"{entry.prompt_tokens} prompt and {entry.output_tokens} output tokens"
        )
    previous = request.previous
    right = Head(previous.length + count, loghash.extend(previous.log_hash, request.packed_ids))
    if entry.head != right:
        raise ValueError(f"step {entry.step_id}: its head is {entry.head}, but its ids lead to {right}")


def check_migration(request: MigrateRequest) -> None:
    """Raises ValueError when entries, ids and head of the request contradict one another."""
    head, at = Head(), 0
    for entry in request.entries:
        end = at + (entry.prompt_tokens + entry.output_tokens) * ID_BYTES
        head = Head(end // ID_BYTES, loghash.extend(head.log_hash, request.packed_ids[at:end]))
        if entry.head != head:
            raise ValueError(f"step {entry.step_id}: its head is {entry.head}, but its ids lead to {head}")
        at = end
    if not request.entries or at != len(request.packed_ids):
        raise ValueError(f"{len(request.entries)} steps of {at} bytes of ids, but {len(request.packed_ids)} are given")
