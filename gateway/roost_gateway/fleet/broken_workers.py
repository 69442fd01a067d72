"""Workers that steps avoid for the time of a lease because a stream to them broke, and which of these still live."""

import time
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from roost.contract.lease import LEASE_PERIOD_SECONDS, LEASE_TTL_SECONDS

WorkerStart = tuple[str, str]
"""`WorkerState.start`: another start of a worker is another worker."""


@dataclass(slots=True)
class _Mark:
    until: float
    lease_end: float | None = None
    """As it was first read after the stream broke; None until then."""
    is_renewed: bool = False


class BrokenWorkers:
    """Marks of workers, each for the time of a lease."""

    def __init__(self) -> None:
        self._marks: dict[WorkerStart, _Mark] = {}

    def mark(self, start: WorkerStart) -> None:
        """Marks a worker, also one that is known to live: a stream to it has broken once more."""
        self._marks[start] = _Mark(time.monotonic() + LEASE_TTL_SECONDS)

    def heard(self, start: WorkerStart, ms_left: int) -> None:
        """Takes a reading of a worker's lease. One that is renewed after the break tells that only the way to the
        worker was broken; one that has run out, as leases may in the store's grace period, tells nothing."""
        mark = self._marks.get(start)
        if mark is None or ms_left <= 0:
            return
        end = time.monotonic() + ms_left / 1000
        if mark.lease_end is None:
            mark.lease_end = end
        elif end > mark.lease_end + LEASE_PERIOD_SECONDS / 2:
            mark.is_renewed = True

    def all(self) -> AbstractSet[WorkerStart]:
        """All workers that are marked now."""
        if self._marks:
            now = time.monotonic()
            self._marks = {start: mark for start, mark in self._marks.items() if mark.until > now}
        return self._marks.keys()

    def silent(self) -> AbstractSet[WorkerStart]:
        """Those that may have died: they have not renewed their leases since."""
        return {start for start in self.all() if not self._marks[start].is_renewed}
