"""How long workers are busy with logs that steps placed there a moment ago make them compute. Pure.

What workers publish says nothing of it before their next lease, and rooms alone do not keep a herd apart: a worker that
computes a little faster than the others would get all sessions of one that died, until it has no room.
"""

from roost_gateway.routing.choice import DEFAULT_PREFILL_RATE, WorkerState

Start = tuple[str, str]


class Backlogs:
    """By the start of a worker. Times are seconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._busy_until: dict[Start, float] = {}

    def add(self, worker: WorkerState, tokens: int, now: float) -> None:
        """Note that a step was placed at a worker which has to compute `tokens` of its log."""
        if tokens > 0:
            begin = max(now, self._busy_until.get(worker.start, now))
            self._busy_until[worker.start] = begin + tokens / (worker.lease.prefill_rate or DEFAULT_PREFILL_RATE)

    def seconds(self, worker: WorkerState, now: float) -> float:
        """How long the worker still computes what was noted."""
        until = self._busy_until.get(worker.start, now)
        if until <= now:
            self._busy_until.pop(worker.start, None)
        return max(0.0, until - now)
