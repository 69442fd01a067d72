"""How many workers a load needs, and what they cost. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from roost_gateway.simulator.figures import Percentiles, Report

SECONDS_AN_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What a number of workers gives for a load. Costs are in the currency of the price."""

    workers: int
    meets_goal: bool
    ttft: Percentiles
    hit_ratio: float
    steps_per_second: float
    steps_too_long: int
    """Larger than a worker's KV, so that no number of workers serves them."""
    cost_per_hour: float
    cost_per_thousand_steps: float | None
    """None when no step has ended."""
    cost_per_session: float | None
    """None when no session has ended."""


@dataclass(frozen=True, slots=True)
class Goal:
    """The longest time to a first token that 95 % of steps may take, and what a worker costs."""

    ttft_p95_seconds: float
    price_per_worker_hour: float

    def trial(self, workers: int, report: Report) -> Trial:
        """Return what a simulation of `workers` workers says of them."""
        per_hour = workers * self.price_per_worker_hour
        total = per_hour * report.simulated_seconds / SECONDS_AN_HOUR
        return Trial(
            workers=workers,
            meets_goal=report.steps > 0 and report.ttft.p95 <= self.ttft_p95_seconds,
            ttft=report.ttft,
            hit_ratio=report.hit_ratio,
            steps_per_second=report.steps_per_second,
            steps_too_long=report.steps_too_long,
            cost_per_hour=per_hour,
            cost_per_thousand_steps=1000 * total / report.steps if report.steps else None,
            cost_per_session=total / report.sessions_ended if report.sessions_ended else None,
        )


def trials(run: Callable[[int], Trial], most: int) -> Iterator[Trial]:
    """Yield trials of 1, 2, 4, … workers until the goal is met or there are `most`, then bisect between the last two.

    If more workers never miss a goal that fewer meet, the fewest workers that meet it are among the trials, and so is
    one worker less.
    """
    too_few, enough = 0, 1
    yield (trial := run(enough))
    while not trial.meets_goal:
        if enough == most:
            return
        too_few, enough = enough, min(2 * enough, most)
        yield (trial := run(enough))
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        yield (trial := run(middle))
        if trial.meets_goal:
            enough = middle
        else:
            too_few = middle
