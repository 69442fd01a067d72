"""What a simulation measures. Pure."""

from array import array
from dataclasses import dataclass, field
from statistics import StatisticsError, correlation

from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.job import Job

GOOD_TTFT_SECONDS = 30.0
"""A step whose first token comes later does its client no good."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of times in seconds, by nearest rank; 0 of nothing."""

    p50: float
    p95: float
    p99: float
    highest: float


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one simulation."""

    sessions_started: int
    sessions_ended: int
    steps: int
    """Ended; the figures below are of these."""
    steps_too_long: int
    """Larger than a worker's KV or the model's context; they end their session."""
    refusals: int
    """Steps sent away from the gateway's queue, which their clients sent again."""
    simulated_seconds: float
    prompt_tokens: int
    cached_tokens: int
    """On a device, or in host memory."""
    restored_blocks: int
    """Of these, blocks copied from host memory."""
    recomputed_tokens: int
    """Tokens of prompts that an endless cache would have had. It is taken to have shared prefixes from the start."""
    output_tokens: int
    evicted_tokens: int
    hit_ratio: float
    """Cached tokens of prompt tokens."""
    endless_cache_hit_ratio: float
    """What the hit ratio would be if nothing were evicted."""
    prefill_seconds: float
    """What an endless cache would have left to compute."""
    recomputed_seconds: float
    """What was computed on top of that."""
    moves: int
    """Steps that ran at another worker than the session's step before."""
    steps_per_second: float
    output_tokens_per_second: float
    ttft: Percentiles
    """From the first submission to the first token."""
    gateway_wait: Percentiles
    """From the first submission until a worker was chosen."""
    worker_wait: Percentiles
    """From then until the worker began to run the step."""
    goodput_tokens_per_second: float
    """Output of steps whose first token came within `GOOD_TTFT_SECONDS`."""
    held_steps: int
    """Steps that the gate held."""
    forced_steps: int
    """Of these, such as passed because they had been held for as long as they may be."""
    longest_hold: float
    hold_size_correlation: float
    """Of how long steps were held and the size of their context, over held steps; 0 for fewer than two."""


@dataclass(slots=True)
class Figures:
    """Sums up jobs as they end."""

    costs: WorkerCosts
    sessions_started: int = 0
    sessions_ended: int = 0
    steps_too_long: int = 0
    refusals: int = 0
    moves: int = 0
    forced: int = 0
    _good_output: int = 0
    _holds: list[tuple[float, float]] = field(default_factory=list)
    """Seconds and tokens of context of each held step."""
    _prompt: int = 0
    _cached: int = 0
    _restored_blocks: int = 0
    _recomputed: int = 0
    _output: int = 0
    _useful_seconds: float = 0.0
    _seconds: float = 0.0
    _ttft: "array[float]" = field(default_factory=lambda: array("d"))
    _gateway_wait: "array[float]" = field(default_factory=lambda: array("d"))
    _worker_wait: "array[float]" = field(default_factory=lambda: array("d"))

    @property
    def steps(self) -> int:
        return len(self._ttft)

    @property
    def most_steps(self) -> int:
        """How many steps ended or how many were too long, whichever is more."""
        return max(self.steps, self.steps_too_long)

    def add(self, job: Job) -> None:
        """Count a job that has ended."""
        prompt, kept, cached = job.prompt_tokens, job.kept_tokens, job.cached_tokens
        self._prompt += prompt
        self._cached += cached
        self._restored_blocks += job.restored_blocks
        self._recomputed += max(0, kept - cached)
        self._output += job.turn.output_tokens
        self._useful_seconds += self.costs.prefill_seconds(prompt - max(kept, cached), max(kept, cached))
        self._seconds += self.costs.prefill_seconds(job.missing_tokens, cached)
        ttft = job.first_token - job.submitted
        self._good_output += job.turn.output_tokens if ttft <= GOOD_TTFT_SECONDS else 0
        if job.held_seconds:
            self._holds.append((job.held_seconds, float(prompt)))
        self._ttft.append(ttft)
        self._gateway_wait.append(job.placed - job.submitted)
        self._worker_wait.append(job.started - job.placed)

    def report(self, seconds: float, evicted_tokens: int) -> Report:
        """Return the figures after `seconds` of simulated time."""
        steps = self.steps
        return Report(
            sessions_started=self.sessions_started,
            sessions_ended=self.sessions_ended,
            steps=steps,
            steps_too_long=self.steps_too_long,
            refusals=self.refusals,
            simulated_seconds=seconds,
            prompt_tokens=self._prompt,
            cached_tokens=self._cached,
            restored_blocks=self._restored_blocks,
            recomputed_tokens=self._recomputed,
            output_tokens=self._output,
            evicted_tokens=evicted_tokens,
            hit_ratio=_ratio(self._cached, self._prompt),
            endless_cache_hit_ratio=_ratio(self._cached + self._recomputed, self._prompt),
            prefill_seconds=self._useful_seconds,
            recomputed_seconds=self._seconds - self._useful_seconds,
            moves=self.moves,
            steps_per_second=_ratio(steps, seconds),
            output_tokens_per_second=_ratio(self._output, seconds),
            ttft=percentiles(self._ttft),
            gateway_wait=percentiles(self._gateway_wait),
            worker_wait=percentiles(self._worker_wait),
            goodput_tokens_per_second=_ratio(self._good_output, seconds),
            held_steps=len(self._holds),
            forced_steps=self.forced,
            longest_hold=max((hold for hold, _ in self._holds), default=0.0),
            hold_size_correlation=_correlation(self._holds),
        )


def _correlation(pairs: list[tuple[float, float]]) -> float:
    try:
        return correlation(*zip(*pairs, strict=True))
    except (TypeError, StatisticsError):  # fewer than two, or all alike
        return 0.0


def percentiles(values: "array[float]") -> Percentiles:
    """Return the percentiles of `values`, which may be in any order."""
    if not values:
        return Percentiles(0.0, 0.0, 0.0, 0.0)
    ordered = sorted(values)
    p50, p95, p99 = (ordered[-(-len(ordered) * part // 100) - 1] for part in (50, 95, 99))
    return Percentiles(p50, p95, p99, ordered[-1])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
