"""How a worker's running steps progress: what an engine is, and one that takes as long as a trace says. Pure."""

from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Protocol

from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.job import Job


class Engine(Protocol):
    """Runs jobs whose KV is in the cache."""

    def __len__(self) -> int:
        """Return how many jobs run."""
        ...

    def start(self, job: Job, now: float) -> None:
        """Run `job` from now on. `advance` must have been called for this time."""
        ...

    def largest_prompt(self) -> float:
        """Return how many tokens of a prompt may be left to compute for a job to start now; 0 if none may."""
        ...

    def next_time(self) -> float:
        """Return when the next event is due, if nothing starts before; infinite when nothing runs."""
        ...

    def advance(self, now: float) -> list[Job]:
        """Return the jobs that have ended by now. Times must not go back."""
        ...


class RecordedEngine:
    """Each step takes the time that its trace recorded, whatever is cached, so that requests come at the same times
    under every policy. A first token comes when the missing part of the prompt could be computed."""

    def __init__(self, costs: WorkerCosts, copy_block_seconds: float) -> None:
        self._costs, self._copy_block_seconds = costs, copy_block_seconds
        self._running: list[tuple[float, int, Job]] = []
        self._count = count()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, job: Job, now: float) -> None:
        costs, turn = self._costs, job.turn
        copying = self._copy_block_seconds * (job.restored_blocks + job.offloaded_blocks)
        job.first_token = now + copying + costs.prefill_seconds(job.missing_tokens, job.cached_tokens)
        seconds = turn.recorded_seconds
        if seconds is None:
            new = costs.prefill_seconds(job.prompt_tokens - job.kept_tokens, job.kept_tokens)
            seconds = new + turn.output_tokens * costs.batch_seconds(1, job.prompt_tokens)
        heappush(self._running, (now + seconds, next(self._count), job))

    def largest_prompt(self) -> float:
        return inf

    def next_time(self) -> float:
        return self._running[0][0] if self._running else inf

    def advance(self, now: float) -> list[Job]:
        ended: list[Job] = []
        while self._running and self._running[0][0] <= now:
            ended.append(heappop(self._running)[2])
        return ended
