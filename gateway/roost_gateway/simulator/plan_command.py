"""`roost plan`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from roost.cli.options import Output
from roost.cli.output import OutputFormat, print_json, print_table
from roost.cli.report import report
from roost_gateway.simulator import options, policies
from roost_gateway.simulator.costs import DEFAULT_COSTS
from roost_gateway.simulator.load import GENERATED, Load
from roost_gateway.simulator.planning import Goal, Trial, trials
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_worker.engine.policies import DEFAULT_POLICY

COLUMNS = (
    *("WORKERS", "MEETS THE GOAL", "TTFT P50", "P95", "P99", "HIT RATIO", "STEPS/S"),
    *("COST PER HOUR", "PER 1,000 STEPS", "PER SESSION"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What `roost plan` prints as JSON."""

    workers: int
    """The fewest that meet the goal."""
    goal: Goal
    trials: tuple[Trial, ...]
    """By their number of workers."""


def plan(
    ttft_p95: Annotated[float, typer.Option(min=1e-9, help="Goal: seconds to the first token of 95 % of steps.")],
    price: Annotated[float, typer.Option(min=0, help="Price of a worker for an hour, in any currency.")],
    max_workers: Annotated[int, typer.Option(min=1, help="Most workers to try.")] = 64,
    workload: options.Workload = GENERATED,
    file: options.File = None,
    kv_tokens: options.KvTokens = 780_000,
    host_tokens: options.HostTokens = 0,
    context_tokens: options.ContextTokens = None,
    max_running: options.MaxRunning = 256,
    policy: options.Policy = DEFAULT_POLICY,
    costs: options.Costs = DEFAULT_COSTS,
    sessions: options.Sessions = 32,
    rate: options.Rate = None,
    ramp: options.Ramp = 60.0,
    longest_gap: options.LongestGap = None,
    steps: options.Steps = 10_000,
    seed: options.Seed = 0,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Say how many workers a load needs for its first tokens to come in time, and what they cost.

    Each number of workers that is tried is a simulation as `roost simulate` runs it: 1, 2, 4, … until the goal is met,
    then those between.
    """
    try:
        load = Load(workload, file, sessions, rate, ramp_seconds=ramp, longest_gap_seconds=longest_gap, seed=seed)
        settings = options.worker_settings(kv_tokens, host_tokens, context_tokens, max_running, costs)
        policy_factory, goal = policies.policy_factory(settings, policy), Goal(ttft_p95, price)

        def run(workers: int) -> Trial:
            simulation = Simulation(Fleet(workers, settings), policy_factory, load.arrivals())
            return goal.trial(workers, simulation.run(steps))

        smallest = _plan(goal, list(trials(run, max_workers)))
    except (OSError, ValueError) as error:
        report(str(error))
        raise typer.Exit(1) from None
    if output is OutputFormat.JSON:
        print_json(smallest)
    else:
        _print(smallest)


def _plan(goal: Goal, tried: Sequence[Trial]) -> Plan:
    """Raise ValueError when no trial meets the goal."""
    by_size = tuple(sorted(tried, key=lambda trial: trial.workers))
    fewest = next((trial for trial in by_size if trial.meets_goal), None)
    if fewest is None:
        raise ValueError(_shortfall(by_size[-1]))
    return Plan(fewest.workers, goal, by_size)


def _shortfall(most: Trial) -> str:
    if most.cost_per_thousand_steps is None:
        return "no step of the load has ended; raise --kv-tokens if all are too long for a worker, else --steps"
    return (
        f"{_workers(most.workers)} give a TTFT p95 of {most.ttft.p95:.2f} s, above the goal; raise --max-workers or "
        "--ttft-p95, or lower --sessions or --rate"
    )


def _print(plan: Plan) -> None:
    print_table(COLUMNS, map(_row, plan.trials))
    typer.echo(_conclusion(plan))


def _row(trial: Trial) -> Sequence[str]:
    costs = (trial.cost_per_hour, trial.cost_per_thousand_steps, trial.cost_per_session)
    return (
        f"{trial.workers:,}",
        "yes" if trial.meets_goal else "no",
        *(f"{seconds:.2f} s" for seconds in (trial.ttft.p50, trial.ttft.p95, trial.ttft.p99)),
        f"{trial.hit_ratio:.1%}",
        f"{trial.steps_per_second:.2f}",
        *map(_cost, costs),
    )


def _cost(cost: float | None) -> str:
    if cost is None:
        return "not known"
    return f"{cost:,.4g}" if cost < 1 else f"{cost:,.2f}"


def _conclusion(plan: Plan) -> str:
    by_size = {trial.workers: trial for trial in plan.trials}
    enough, fewer = by_size[plan.workers], by_size.get(plan.workers - 1)
    text = f"A goal of {plan.goal.ttft_p95_seconds:g} s takes {_workers(enough.workers)}"
    text += f" at {_cost(enough.cost_per_hour)} an hour"
    if fewer:
        text += f"; {_workers(fewer.workers)} would give a TTFT p95 of {fewer.ttft.p95:.2f} s"
    if enough.steps_too_long:
        text += f". {enough.steps_too_long:,} steps are too long for a worker and were not run: raise --kv-tokens"
    return text + "."


def _workers(number: int) -> str:
    return f"{number:,} worker" if number == 1 else f"{number:,} workers"
