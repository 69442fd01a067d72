"""A session's log as a worker knows it: token ids, and the commit boundaries that it can verify. Pure."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from roost.contract.heads import Head
from roost.contract.loghash import extend, pack_ids


@dataclass(frozen=True, slots=True)
class SessionLog:
    """Ids of a log with its boundaries, ascending; the first is the empty log, the last the end of `ids`.

    If `provisional`, the last boundary is a finished step whose commit has not arrived: a gateway that names this head
    confirms it.
    """

    generation: int
    ids: "array[int]"
    boundaries: tuple[Head, ...] = (Head(),)
    provisional: bool = False

    @property
    def end(self) -> Head:
        return self.boundaries[-1]

    def at(self, head: Head) -> "SessionLog | None":
        """Return the log up to `head`, as committed, or None when `head` is not a boundary."""
        if head not in self.boundaries:
            return None
        kept = self.boundaries[: self.boundaries.index(head) + 1]
        return SessionLog(self.generation, self.ids[: head.length], kept)

    def committed_below(self, length: int) -> "SessionLog":
        """Return the log up to its last committed boundary below `length`: what a longer log may share with it."""
        committed = self.boundaries[:-1] if self.provisional else self.boundaries
        kept = tuple(boundary for boundary in committed if boundary.length < length) or (Head(),)
        return SessionLog(self.generation, self.ids[: kept[-1].length], kept)

    def extended(self, step_ids: "array[int]") -> "SessionLog":
        """Return the log after a step of these prompt and output ids; the new boundary is provisional."""
        end = Head(self.end.length + len(step_ids), extend(self.end.log_hash, pack_ids(step_ids)))
        return SessionLog(self.generation, self.ids + step_ids, (*self.boundaries, end), provisional=True)


def empty_log(generation: int) -> SessionLog:
    return SessionLog(generation, array("I"))


class HistoryError(ValueError):
    """The gateway's history does not belong to the head that it named."""


class MissingHistory:
    """What a worker lacks of a log: collects the runs that answer one NeedHistory, and checks them against the head.

    `known` is the log that the runs continue, `head` is where they must end.
    """

    def __init__(self, known: SessionLog, head: Head) -> None:
        self._known, self._head = known, head
        self._ids: array[int] = array("I")
        self._ends: list[int] = []

    @property
    def from_token(self) -> int:
        return self._known.end.length

    def add(self, offset: int, ids: "array[int]", step_ends: Sequence[int] = ()) -> None:
        """Add the next run. Raise HistoryError when it leaves a gap, overlaps, or goes beyond the head."""
        expected = self.from_token + len(self._ids)
        if offset != expected:
            raise HistoryError(f"history continues at token {offset}; {expected} was expected")
        if expected + len(ids) > self._head.length:
            raise HistoryError(f"history goes beyond the head at {self._head.length} tokens")
        self._ids += ids
        self._ends += step_ends

    def joined(self) -> SessionLog | None:
        """Return the whole log up to the head, or None when it does not hash to the head and must be sent from 0.

        Without step ends a history from 0 is trusted, since only the gateway knows where steps end.
        Raise HistoryError when ids are missing, step ends are out of order, or the hash of a history from 0 is wrong.
        """
        if self.from_token + len(self._ids) != self._head.length:
            raise HistoryError(
                f"history ends at token {self.from_token + len(self._ids)}, the head is at {self._head.length}"
            )
        log = self._linked()
        if log.end == self._head:
            return SessionLog(log.generation, log.ids, log.boundaries)
        if self.from_token > 0:
            return None
        if self._ends:
            raise HistoryError("history does not hash to the head: the record and the head disagree")
        return SessionLog(self._known.generation, self._ids, (Head(), self._head))

    def _linked(self) -> SessionLog:
        log, start = self._known, self.from_token
        ends = self._ends if self._ends and self._ends[-1] == self._head.length else [*self._ends, self._head.length]
        for end in ends:
            if not start < end <= self._head.length:
                raise HistoryError(f"step ends {self._ends} do not ascend from {self.from_token} to the head")
            log = log.extended(self._ids[start - self.from_token : end - self.from_token])
            start = end
        return log
