"""An engine that runs batches at their costs: every decoding sequence gets a token, prompts get what is left. Pure.

How a batch is shared among prompts is decided by the engine's own `roost_worker.engine.prefill`. Batches are not
stepped through one by one where they are alike: while no prompt is computed, or none but the first gets a part, the
time of any number of batches has a closed form. Simpler than the engine: all steps have one priority, there is no goal
for a batch's time, and a batch begins when its copies between the device and host memory are made.
"""

from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import inf, sqrt

from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.job import Job
from roost_worker.engine.host_tier import restores_per_batch
from roost_worker.engine.prefill import light_share, shares

_ROUNDING = 1e-9
"""Seconds, and parts of a batch, that are lost to floating point."""


@dataclass(slots=True)
class _Prompt:
    """A prompt that is not computed yet."""

    job: Job
    number: int
    """In the order in which jobs started."""
    left: int
    """Tokens to compute."""
    blocks: int
    """To be restored from host memory before."""

    @property
    def begun(self) -> bool:
        return self.left < self.job.missing_tokens


@dataclass(frozen=True, slots=True)
class _Batches:
    """Batches that follow each other and give the same parts to the same prompts."""

    number: int
    once: float
    """Seconds of the first batch alone: of prompts that begin, and of copies."""
    first: float
    """Seconds of the first batch, besides."""
    growth: float
    """Seconds that each batch takes longer than the one before it, as contexts grow."""
    parts: tuple[int, ...]
    """Tokens for the first prompts, in order."""
    restored: tuple[int, ...] = ()
    """Blocks for the first prompts that restore, in order."""

    def seconds(self, number: int) -> float:
        return self.once + number * self.first + self.growth * number * (number - 1) / 2

    def ended_after(self, seconds: float) -> int:
        """Return how many have ended after a time in which not all have."""
        rest = seconds - self.once
        if rest < self.first:
            return 0
        slope = self.first - self.growth / 2
        ended = 2 * rest / (slope + sqrt(slope * slope + 2 * self.growth * rest))
        return min(int(ended + _ROUNDING), self.number - 1)


class BatchedEngine:
    """Implements Engine. A job that comes during a batch is taken into the next one."""

    def __init__(self, costs: WorkerCosts, copy_block_seconds: float) -> None:
        self._costs, self._copy_block_seconds = costs, copy_block_seconds
        self._most_restores = restores_per_batch(1 / copy_block_seconds)
        self._prompts: list[_Prompt] = []
        self._restoring: list[_Prompt] = []
        """Such as have blocks in host memory, of which the next batch restores some."""
        self._offloads = 0
        """Blocks that the next batch copies to host memory."""
        self._arrived: list[_Prompt] = []
        """Came during the batch that runs."""
        self._decodes: list[tuple[int, int, Job]] = []
        """By the batch at which each ends."""
        self._count = count()
        self._time = 0.0
        """When the batch that runs began."""
        self._batch = 0
        """Its number, since the engine started."""
        self._kv_tokens = 0
        """Context of all decoding sequences."""
        self._planned: _Batches | None = None
        """The batches that run, once somebody has asked for them."""

    def __len__(self) -> int:
        return len(self._prompts) + len(self._restoring) + len(self._arrived) + len(self._decodes)

    def start(self, job: Job, now: float) -> None:
        prompt = _Prompt(job, next(self._count), job.missing_tokens, job.restored_blocks)
        self._planned = None
        if not len(self):
            self._time = max(self._time, now)
        if now <= self._time + _ROUNDING:
            self._take_in(prompt)
        else:
            self._arrived.append(prompt)

    def _take_in(self, prompt: _Prompt) -> None:
        (self._restoring if prompt.blocks else self._prompts).append(prompt)
        self._offloads += prompt.job.offloaded_blocks

    def largest_prompt(self) -> float:
        left = [prompt.left for prompt in (*self._prompts, *self._arrived) if not prompt.blocks]
        tokens, light = self._batch_tokens(), self._costs.chunk_tokens
        if sum(left) < tokens:
            return inf
        return light if sum(each for each in left if each <= light) < light_share(tokens) else 0

    def next_time(self) -> float:
        if not len(self):
            return inf
        batches = self._batches()
        return self._time + batches.seconds(batches.number)

    def advance(self, now: float) -> list[Job]:
        ended: list[Job] = []
        while len(self):
            batches = self._batches()
            number = batches.number
            if self._time + batches.seconds(number) > now + _ROUNDING:
                number = batches.ended_after(now - self._time)
            if not number:
                break
            self._run(batches, number, ended)
        return ended

    def _batches(self) -> _Batches:
        if self._planned is None:
            self._planned = self._plan_batches()
        return self._planned

    def _plan_batches(self) -> _Batches:
        """Return the next batches that are alike: until a sequence ends, a job that waits for the next batch is taken
        in, or prompts get other parts."""
        rows, costs = len(self._decodes), self._costs
        most = self._decodes[0][0] - self._batch if self._decodes else None
        restored = self._restores()
        copying = self._copy_block_seconds * (self._offloads + sum(restored))
        if self._arrived or copying:
            most = 1
        first = costs.batch_seconds(rows, self._kv_tokens) if rows or self._prompts else 0.0
        growth = costs.kv_token_seconds * rows
        if not self._prompts:
            assert most is not None, "nothing runs"
            return _Batches(most, copying, first, growth, (), restored)
        tokens = self._batch_tokens()
        parts, alike = self._parts(tokens)
        growth += costs.prefill_pair_seconds * tokens * tokens if alike > 1 else 0.0
        once, work = self._prefill_seconds(parts)
        return _Batches(min(alike, most or alike), once + copying, first + work, growth, parts, restored)

    def _restores(self) -> tuple[int, ...]:
        """Return how many blocks the next batch restores for each prompt that has some in host memory."""
        left, restored = self._most_restores, []
        for prompt in self._restoring:
            restored.append(min(left, prompt.blocks))
            left -= restored[-1]
        return tuple(restored)

    def _batch_tokens(self) -> int:
        """Return how many tokens of prompts a batch has room for."""
        return max(1, self._costs.chunk_tokens - len(self._decodes))

    def _parts(self, tokens: int) -> tuple[tuple[int, ...], int]:
        """Return how `tokens` are shared among the prompts, and in how many batches they are shared so."""
        light = self._costs.chunk_tokens
        if all(prompt.left > light for prompt in self._prompts):
            return (tokens,), -(-(self._prompts[0].left - light) // tokens)
        return tuple(shares([(0, prompt.left) for prompt in self._prompts], tokens, light)), 1

    def _prefill_seconds(self, parts: tuple[int, ...]) -> tuple[float, float]:
        """Return the seconds of prompts that begin with these parts, and of computing the parts."""
        costs, once, work = self._costs, 0.0, 0.0
        for prompt, part in zip(self._prompts, parts, strict=False):
            if part:
                once += 0.0 if prompt.begun else costs.prompt_seconds
                before = prompt.job.prompt_tokens - prompt.left
                work += costs.prefill_token_seconds * part + costs.prefill_pair_seconds * part * (before + part / 2)
        return once, work

    def _run(self, batches: _Batches, number: int, ended: list[Job]) -> None:
        self._planned = None
        self._time += batches.seconds(number)
        self._batch += number
        self._kv_tokens += number * len(self._decodes)
        for prompt, part in zip(self._prompts, batches.parts, strict=False):
            prompt.left -= number * part
        if batches.parts:
            self._end_prompts()
        self._end_decodes(ended)
        self._offloads = 0
        if batches.restored:
            self._end_restores(batches.restored)
        for prompt in self._arrived:
            self._take_in(prompt)
        self._arrived = []

    def _end_restores(self, restored: tuple[int, ...]) -> None:
        for prompt, blocks in zip(self._restoring, restored, strict=True):
            prompt.blocks -= blocks
        self._prompts += [prompt for prompt in self._restoring if not prompt.blocks]
        self._prompts.sort(key=lambda prompt: prompt.number)
        self._restoring = [prompt for prompt in self._restoring if prompt.blocks]

    def _end_prompts(self) -> None:
        """Let sequences decode whose prompt is computed; each has its first token then."""
        for prompt in self._prompts:
            if not prompt.left:
                job = prompt.job
                job.first_token = self._time
                self._kv_tokens += job.prompt_tokens + 1
                heappush(self._decodes, (self._batch + job.turn.output_tokens - 1, next(self._count), job))
        self._prompts = [prompt for prompt in self._prompts if prompt.left]

    def _end_decodes(self, ended: list[Job]) -> None:
        while self._decodes and self._decodes[0][0] <= self._batch:
            job = heappop(self._decodes)[2]
            self._kv_tokens -= job.total_tokens
            ended.append(job)
