"""How a worker's running steps progress: in batches with costs, or as long as a trace says. Pure.

`BatchedEngine` does not step through batches one by one. Between two events (a prompt is computed, an output ends, a
step begins) each batch decodes the same sequences and computes a chunk of the same prompt, so the time of any number of
batches has a closed form.
"""

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import ceil, inf, sqrt
from typing import Protocol

from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.job import Job

_ROUNDING = 1e-9
"""Seconds, and parts of a batch, that are lost to floating point."""


class Engine(Protocol):
    """Runs jobs whose KV is in the cache."""

    def __len__(self) -> int:
        """Return how many jobs run."""
        ...

    def start(self, job: Job, now: float) -> None:
        """Run `job` from now on. `advance` must have been called for this time."""
        ...

    def next_time(self) -> float:
        """Return when the next event is due, if nothing starts before; infinite when nothing runs."""
        ...

    def advance(self, now: float) -> list[Job]:
        """Return the jobs that have ended by now. Times must not go back."""
        ...


@dataclass(slots=True)
class _Prefill:
    job: Job
    batches: float
    """Left to do."""
    seconds: float
    """Of each batch, on top of what the decoding sequences cost."""


class BatchedEngine:
    """Mixed batches: every decoding sequence gets a token, and the prompt that came first a chunk.

    Prompts are computed one after the other, a last chunk that is not full takes a batch of its own, and a prompt's
    cost is spread evenly over its batches. A batch of the real engine may hold the ends of several prompts.
    """

    def __init__(self, costs: WorkerCosts) -> None:
        self._costs = costs
        self._prefills: deque[_Prefill] = deque()
        self._decodes: list[tuple[float, int, Job]] = []
        self._count = count()
        self._time = 0.0
        self._batches = 0.0
        """Since the engine started; an output ends at a certain one."""
        self._kv_tokens = 0.0
        """Context of all decoding sequences."""

    def __len__(self) -> int:
        return len(self._prefills) + len(self._decodes)

    def start(self, job: Job, now: float) -> None:
        self._time = max(self._time, now)
        batches = max(1, ceil(job.missing_tokens / self._costs.chunk_tokens))
        seconds = self._costs.prefill_seconds(job.missing_tokens, job.cached_tokens) / batches
        self._prefills.append(_Prefill(job, batches, seconds))

    def next_time(self) -> float:
        return self._time + self._seconds(self._batches_left()) if len(self) else inf

    def advance(self, now: float) -> list[Job]:
        ended: list[Job] = []
        while len(self):
            batches = self._batches_left()
            seconds = self._seconds(batches)
            if self._time + seconds > now + _ROUNDING:
                self._run(self._batches_in(max(0.0, now - self._time)), now)
                break
            self._run(batches, self._time + seconds)
            self._end_prefill(ended)
            self._end_decodes(ended)
        self._time = max(self._time, now)
        return ended

    def _batches_left(self) -> float:
        """Return how many batches it takes to the next event."""
        left = self._decodes[0][0] - self._batches if self._decodes else inf
        return max(0.0, min(left, self._prefills[0].batches) if self._prefills else left)

    def _batch_seconds(self) -> float:
        prefill = self._prefills[0].seconds if self._prefills else 0.0
        return self._costs.batch_seconds(len(self._decodes), self._kv_tokens) + prefill

    def _growth(self) -> float:
        """Return how much longer each batch takes than the one before it, as contexts grow."""
        return self._costs.kv_token_seconds * len(self._decodes)

    def _seconds(self, batches: float) -> float:
        return batches * (self._batch_seconds() + self._growth() * batches / 2)

    def _batches_in(self, seconds: float) -> float:
        """The inverse of `_seconds`."""
        first = self._batch_seconds()
        return 2 * seconds / (first + sqrt(first * first + 2 * self._growth() * seconds))

    def _run(self, batches: float, until: float) -> None:
        self._batches += batches
        self._kv_tokens += batches * len(self._decodes)
        if self._prefills:
            self._prefills[0].batches -= batches
        self._time = until

    def _end_prefill(self, ended: list[Job]) -> None:
        if not self._prefills or self._prefills[0].batches > _ROUNDING:
            return
        job = self._prefills.popleft().job
        job.first_token = self._time
        if job.turn.output_tokens == 1:
            ended.append(job)
            return
        self._kv_tokens += job.prompt_tokens + 1
        heappush(self._decodes, (self._batches + job.turn.output_tokens - 1, next(self._count), job))

    def _end_decodes(self, ended: list[Job]) -> None:
        while self._decodes and self._decodes[0][0] <= self._batches + _ROUNDING:
            job = heappop(self._decodes)[2]
            self._kv_tokens = self._kv_tokens - job.total_tokens if self._decodes else 0.0
            ended.append(job)


class RecordedEngine:
    """Each step takes the time that its trace recorded, whatever is cached, so that requests come at the same times
    under every policy. A first token comes when the missing part of the prompt could be computed."""

    def __init__(self, costs: WorkerCosts) -> None:
        self._costs = costs
        self._running: list[tuple[float, int, Job]] = []
        self._count = count()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, job: Job, now: float) -> None:
        costs, turn = self._costs, job.turn
        job.first_token = now + costs.prefill_seconds(job.missing_tokens, job.cached_tokens)
        seconds = turn.recorded_seconds
        if seconds is None:
            new = costs.prefill_seconds(job.prompt_tokens - job.kept_tokens, job.kept_tokens)
            seconds = new + turn.output_tokens * costs.batch_seconds(1, job.prompt_tokens)
        heappush(self._running, (now + seconds, next(self._count), job))

    def next_time(self) -> float:
        return self._running[0][0] if self._running else inf

    def advance(self, now: float) -> list[Job]:
        ended: list[Job] = []
        while self._running and self._running[0][0] <= now:
            ended.append(heappop(self._running)[2])
        return ended
