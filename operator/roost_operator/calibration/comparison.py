"""What an engine did beside what the simulator says of it. Pure."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from roost_gateway.simulator.figures import Report, percentiles

GOAL = 0.1
"""Largest relative error of a simulated figure."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run of a workload."""

    steps_per_second: float
    hit_ratio: float
    ttft_p50: float
    ttft_p95: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure, in the median of all rounds."""

    figure: str
    engine: float
    simulated: float
    error: float
    """Relative to the engine's figure; the median of the rounds' errors."""

    @property
    def meets_goal(self) -> bool:
        return self.error <= GOAL


def figures_of(report: Report) -> Figures:
    """Return the figures of a simulation."""
    return Figures(report.steps_per_second, report.hit_ratio, report.ttft.p50, report.ttft.p95)


def measured_figures(ttfts: Sequence[float], seconds: float, prompt_tokens: int, cached_tokens: int) -> Figures:
    """Return the figures of steps with these times to their first tokens, which took `seconds` altogether."""
    times = percentiles(array("d", ttfts))
    return Figures(len(ttfts) / seconds, cached_tokens / prompt_tokens, times.p50, times.p95)


_FIGURES: Mapping[str, Callable[[Figures], float]] = {
    "steps per second": lambda figures: figures.steps_per_second,
    "hit ratio": lambda figures: figures.hit_ratio,
    "TTFT p50 (s)": lambda figures: figures.ttft_p50,
    "TTFT p95 (s)": lambda figures: figures.ttft_p95,
}


def compare(rounds: Sequence[tuple[Figures, Figures]]) -> list[Comparison]:
    """Return a comparison for each figure of rounds of (engine, simulator)."""
    return [
        _comparison(name, [(figure(engine), figure(simulated)) for engine, simulated in rounds])
        for name, figure in _FIGURES.items()
    ]


def _comparison(name: str, pairs: Sequence[tuple[float, float]]) -> Comparison:
    error = median(abs(simulated - engine) / engine if engine else abs(simulated) for engine, simulated in pairs)
    return Comparison(name, median(pair[0] for pair in pairs), median(pair[1] for pair in pairs), error)
