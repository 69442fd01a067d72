"""What a worker's shell knows about sessions: their logs, and each one's newest attempt. Pure and bounded."""

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from roost.contract.heads import AttemptRef, Head
from roost_worker.server.session_log import MissingHistory, SessionLog, empty_log

_Value = TypeVar("_Value")

MAX_LOGS = 4096
MAX_EPOCHS = 65536


@dataclass(frozen=True, slots=True)
class LogRef:
    """A log by the gateway's name for it."""

    session: str
    generation: int
    head: Head


class SessionTable:
    """Logs by session, and epochs, which outlive the logs so that stale attempts stay fenced.

    Both are bounded: the least recently used go first. A forgotten log costs a NeedHistory. An epoch is forgotten when
    65,536 other sessions were used since; Redis still rejects a stale attempt's commit then.
    """

    def __init__(self, *, max_logs: int = MAX_LOGS, max_epochs: int = MAX_EPOCHS) -> None:
        self._logs: OrderedDict[str, SessionLog] = OrderedDict()
        self._refs: OrderedDict[str, AttemptRef] = OrderedDict()
        self._max_logs, self._max_epochs = max_logs, max_epochs

    def admit(self, session: str, ref: AttemptRef) -> bool:
        """Record an attempt or an eviction. Return False if it is stale: a newer one, or another of its epoch, came."""
        newest = self._refs.get(session)
        if newest is not None and (ref.epoch < newest.epoch or (ref.epoch == newest.epoch and ref != newest)):
            return False
        _touch(self._refs, session, ref, self._max_epochs)
        return True

    def is_stale(self, session: str, epoch: int) -> bool:
        """Return whether an attempt or an eviction of a later epoch came."""
        newest = self._refs.get(session)
        return newest is not None and newest.epoch > epoch

    def find(self, ref: LogRef) -> SessionLog | MissingHistory:
        """Return the log at exactly `ref.head`, or what the gateway must send to complete it."""
        if ref.head == Head():
            return empty_log(ref.generation)
        log = self._logs.get(ref.session)
        if log is None or log.generation != ref.generation:
            return MissingHistory(empty_log(ref.generation), ref.head)
        return log.at(ref.head) or MissingHistory(log.committed_below(ref.head.length), ref.head)

    def put(self, session: str, log: SessionLog) -> None:
        """Store a session's log, longer or shorter than before."""
        _touch(self._logs, session, log, self._max_logs)

    def finish(self, session: str, log: SessionLog, step_ids: "array[int]") -> None:
        """Append a finished step to the log that it continued; it stays provisional until `commit`."""
        self.put(session, log.extended(step_ids))

    def commit(self, session: str, head: Head) -> bool:
        """Confirm the log's end. Forget the log and return False when `head` is not one of its boundaries."""
        log = self._logs.get(session)
        if log is None:
            return False
        confirmed = log.at(head)
        if confirmed is None:
            del self._logs[session]
            return False
        self.put(session, confirmed)
        return True

    def drop(self, session: str) -> None:
        """Forget the log, because the engine dropped its sequence; the epoch stays."""
        self._logs.pop(session, None)

    def check_integrity(self) -> None:
        """Raise AssertionError unless each log's boundaries ascend to its end and the table is within its bounds."""
        assert len(self._logs) <= self._max_logs
        assert len(self._refs) <= self._max_epochs
        for log in self._logs.values():
            lengths = [boundary.length for boundary in log.boundaries]
            assert (lengths[0], lengths[-1]) == (0, len(log.ids))
            assert all(before < after for before, after in pairwise(lengths))


def _touch(table: "OrderedDict[str, _Value]", key: str, value: _Value, bound: int) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > bound:
        table.popitem(last=False)
