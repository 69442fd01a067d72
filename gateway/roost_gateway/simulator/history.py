"""What happens in the course of a simulation, for plots. Pure."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from roost_gateway.simulator.job import Job


@dataclass(frozen=True, slots=True)
class Moment:
    """A simulation after some of its steps."""

    seconds: float
    """Of simulated time."""
    hit_ratio: float
    """Of the steps since the moment before."""
    waiting: int
    """Steps that wait at the gateway or at a worker."""
    working_set_tokens: int
    """Contexts of all sessions that have begun and not ended, each with its prefix."""


@dataclass(slots=True)
class History:
    """Notes a moment after every `every` steps, and each step's time to its first token."""

    every: int
    moments: list[Moment] = field(default_factory=list)
    ttfts: "array[float]" = field(default_factory=lambda: array("d"))
    _prompt_tokens: int = 0
    _cached_tokens: int = 0

    def add(self, job: Job, now: float, waiting: Callable[[], int], working_set_tokens: Callable[[], int]) -> None:
        """Count a job that has ended. The functions are called when a moment is noted."""
        self.ttfts.append(job.first_token - job.submitted)
        self._prompt_tokens += job.prompt_tokens
        self._cached_tokens += job.cached_tokens
        if len(self.ttfts) % self.every == 0:
            hit_ratio = self._cached_tokens / self._prompt_tokens
            self.moments.append(Moment(now, hit_ratio, waiting(), working_set_tokens()))
            self._prompt_tokens = self._cached_tokens = 0
