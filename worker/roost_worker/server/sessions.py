"""What a worker's shell knows of sessions: their logs, and the highest epoch seen of each. Pure, bounded."""

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
    """A log as the gateway names it."""

    session: str
    generation: int
    head: Head


class SessionTable:
    """Logs by session, and epochs, which outlive the logs so that a stale attempt stays fenced.

    Both are bounded: the least recently used go first. A forgotten log costs a NeedHistory; a forgotten epoch is
    that of a session idle for 65,536 others, and Redis still fences what it would commit.
    """

    def __init__(self, *, max_logs: int = MAX_LOGS, max_epochs: int = MAX_EPOCHS) -> None:
        self._logs: OrderedDict[str, SessionLog] = OrderedDict()
        self._refs: OrderedDict[str, AttemptRef] = OrderedDict()
        self._max_logs, self._max_epochs = max_logs, max_epochs

    def admit(self, session: str, ref: AttemptRef) -> bool:
        """Notes an attempt or an eviction. False when a newer one, or another of its epoch, was seen: it is stale."""
        seen = self._refs.get(session)
        if seen is not None and (ref.epoch < seen.epoch or (ref.epoch == seen.epoch and ref != seen)):
            return False
        _touch(self._refs, session, ref, self._max_epochs)
        return True

    def find(self, ref: LogRef) -> SessionLog | MissingHistory:
        """The log at exactly `ref.head`; otherwise what must be asked of the gateway."""
        if ref.head == Head():
            return empty_log(ref.generation)
        log = self._logs.get(ref.session)
        if log is None or log.generation != ref.generation:
            return MissingHistory(empty_log(ref.generation), ref.head)
        return log.at(ref.head) or MissingHistory(log.committed_below(ref.head.length), ref.head)

    def put(self, session: str, log: SessionLog) -> None:
        """Takes a log as it now is, longer or shorter than before."""
        _touch(self._logs, session, log, self._max_logs)

    def finish(self, session: str, log: SessionLog, step_ids: "array[int]") -> None:
        """Parks a finished step on top of the log that it began with; it stays provisional until `commit`."""
        self.put(session, log.extended(step_ids))

    def commit(self, session: str, head: Head) -> bool:
        """Confirms the log's end. False, and the log is forgotten, when `head` is not a boundary of it."""
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
        """Forgets the log, because the engine dropped its sequence; the epoch stays."""
        self._logs.pop(session, None)

    def check_integrity(self) -> None:
        """Asserts that every log ends at its last boundary, its boundaries ascend, and the table keeps its bounds."""
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
