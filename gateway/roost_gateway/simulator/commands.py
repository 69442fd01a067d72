"""`roost simulate`."""

from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from roost.cli.options import Output
from roost.cli.output import OutputFormat, print_json, print_table
from roost.cli.report import report
from roost_gateway.simulator import gates, options, policies
from roost_gateway.simulator.costs import DEFAULT_COSTS
from roost_gateway.simulator.figures import Percentiles, Report
from roost_gateway.simulator.history import History
from roost_gateway.simulator.load import GENERATED, Load
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_worker.engine.policies import DEFAULT_POLICY

PLOTTED_MOMENTS = 500


def simulate(
    workload: options.Workload = GENERATED,
    file: options.File = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers, all alike.")] = 1,
    kv_tokens: options.KvTokens = 780_000,
    host_tokens: options.HostTokens = 0,
    context_tokens: options.ContextTokens = None,
    max_running: options.MaxRunning = 256,
    policy: options.Policy = DEFAULT_POLICY,
    costs: options.Costs = DEFAULT_COSTS,
    admission: Annotated[
        str, typer.Option(help=f"Which sessions are let in: {', '.join(gates.NAMES)}; N is sessions at a worker.")
    ] = gates.NONE,
    refuse_held: Annotated[bool, typer.Option(help="Refuse steps that were held for long, instead of let in.")] = False,
    gateways: Annotated[int, typer.Option(min=1, help="Gateways, which share one ledger.")] = 1,
    sessions: options.Sessions = 32,
    rate: options.Rate = None,
    recorded: Annotated[bool, typer.Option(help="Open loop: sessions begin when the file says.")] = False,
    ramp: options.Ramp = 60.0,
    longest_gap: options.LongestGap = None,
    steps: options.Steps = 10_000,
    seconds: Annotated[float, typer.Option(min=0, help="End after so many simulated seconds.")] = inf,
    seed: options.Seed = 0,
    plot: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for plots (PNG).")] = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Simulate sessions on workers: how much KV is reused, how long steps wait, what is computed again.

    Routing, admission and retention are those of the gateway and the worker. A file's sessions are repeated in random
    order until the steps are done; with --recorded they run once.
    """
    history = None
    if plot is not None:
        from roost_gateway.simulator import plots  # an optional extra: fail before the simulation, not after it

        history = History(every=max(1, steps // PLOTTED_MOMENTS))
    try:
        load = Load(
            workload,
            file,
            sessions,
            rate,
            recorded,
            ramp_seconds=ramp,
            longest_gap_seconds=longest_gap,
            seed=seed,
        )
        settings = options.worker_settings(kv_tokens, host_tokens, context_tokens, max_running, costs)
        gate = gates.gate_factory(admission)
        fleet = Fleet(workers, settings, gate=gate, refuses_held=refuse_held, gateways=gateways)
        make_policy = policies.policy_factory(settings, policy)
        figures = Simulation(fleet, make_policy, load.arrivals(), history).run(steps, seconds)
        if plot is not None and history is not None:
            plots.draw(history, plot, workers * kv_tokens)
    except (OSError, ValueError) as error:
        report(str(error))
        raise typer.Exit(1) from None
    if output is OutputFormat.JSON:
        print_json(figures)
    else:
        print_table(("FIGURE", "VALUE"), _rows(figures))


def _rows(figures: Report) -> Iterator[tuple[str, str]]:
    yield "steps", f"{figures.steps:,} in {figures.simulated_seconds:,.0f} s ({figures.steps_per_second:.2f}/s)"
    yield "sessions", f"{figures.sessions_started:,} started, {figures.sessions_ended:,} ended"
    yield "hit ratio", f"{figures.hit_ratio:.1%} (endless cache {figures.endless_cache_hit_ratio:.1%})"
    if figures.restored_blocks:
        yield "restored from host memory", f"{figures.restored_blocks:,} blocks"
    yield "recomputed", f"{figures.recomputed_tokens:,} tokens, {figures.recomputed_seconds:,.1f} s"
    yield "prefill without that", f"{figures.prefill_seconds:,.1f} s"
    yield "output", f"{figures.output_tokens:,} tokens ({figures.output_tokens_per_second:,.1f}/s)"
    yield "TTFT", _times(figures.ttft)
    yield "wait at the gateway", _times(figures.gateway_wait)
    yield "wait at the worker", _times(figures.worker_wait)
    yield "moves", f"{figures.moves:,}"
    if figures.held_steps:
        holds = f"longest {figures.longest_hold:.1f} s, correlation with size {figures.hold_size_correlation:.2f}"
        yield "held at the gate", f"{figures.held_steps:,} steps, {figures.forced_steps:,} let in by time; {holds}"
    yield "good output", f"{figures.goodput_tokens_per_second:,.1f} tokens/s with a TTFT of at most 30 s"
    yield "refused", f"{figures.refusals:,} times for a while, {figures.steps_too_long:,} steps too long for a worker"


def _times(times: Percentiles) -> str:
    return f"p50 {times.p50:.2f} s, p95 {times.p95:.2f} s, p99 {times.p99:.2f} s, highest {times.highest:.2f} s"
