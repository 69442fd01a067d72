"""`roost simulate`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from roost.cli.options import Output
from roost.cli.output import OutputFormat, print_json, print_table, report
from roost_gateway.simulator import gates, policies
from roost_gateway.simulator.arrivals import Arrivals, ClosedLoop, OpenLoop, shuffled_forever
from roost_gateway.simulator.figures import Percentiles, Report
from roost_gateway.simulator.formats.load import FORMATS, load
from roost_gateway.simulator.generator import fitted_parameters, generate
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_gateway.simulator.worker import WorkerSettings
from roost_gateway.simulator.workload import Session, with_capped_gaps
from roost_worker.engine.retention import DEFAULT_POLICY

GENERATED = "generated"


def simulate(
    workload: Annotated[str, typer.Option(help=f"One of {', '.join((GENERATED, *FORMATS))}.")] = GENERATED,
    file: Annotated[Path | None, typer.Option(exists=True, help="File with sessions or requests.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers, all alike.")] = 1,
    kv_tokens: Annotated[int, typer.Option(min=1, help="Tokens of KV that a worker holds.")] = 780_000,
    max_running: Annotated[int, typer.Option(min=1, help="Steps that a worker runs at once.")] = 256,
    policy: Annotated[
        str, typer.Option(help=f"What a worker keeps: {', '.join(policies.NAMES)}, the last one knowing the future.")
    ] = DEFAULT_POLICY,
    admission: Annotated[
        str, typer.Option(help=f"Which sessions are let in: {', '.join(gates.NAMES)}; N is sessions at a worker.")
    ] = gates.NONE,
    refuse_held: Annotated[bool, typer.Option(help="Refuse steps that were held for long, instead of let in.")] = False,
    gateways: Annotated[int, typer.Option(min=1, help="Gateways, which share one ledger.")] = 1,
    gap_cap: Annotated[float | None, typer.Option(min=0, help="No gap between steps is longer, in seconds.")] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Closed loop: so many sessions at any time.")] = 32,
    rate: Annotated[float | None, typer.Option(min=1e-9, help="Open loop: so many sessions begin a second.")] = None,
    recorded: Annotated[bool, typer.Option(help="Open loop: sessions begin when the file says.")] = False,
    ramp: Annotated[float, typer.Option(min=0, help="Seconds in which a closed loop's first sessions begin.")] = 60.0,
    steps: Annotated[int, typer.Option(min=1, help="End after so many steps.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Simulate sessions on workers: how much KV is reused, how long steps wait, what is computed again.

    Routing, admission and retention are those of the gateway and the worker. A file's sessions are repeated in random
    order until the steps are done; with --recorded they run once. Costs are those of an 8B model on one H100.
    """
    try:
        chosen = _sessions(workload, file, seed, once=recorded)
        if gap_cap is not None:
            chosen = (with_capped_gaps(session, gap_cap) for session in chosen)
        arrivals = _arrivals(chosen, rate, sessions, ramp, seed, recorded)
        fleet = Fleet(
            workers,
            WorkerSettings(kv_tokens=kv_tokens, max_running=max_running),
            gate=gates.gate_factory(admission),
            refuses_held=refuse_held,
            gateways=gateways,
        )
        figures = Simulation(fleet, policies.policy_factory(policy), arrivals).run(steps)
    except (OSError, ValueError) as error:
        report(str(error))
        raise typer.Exit(1) from None
    if output is OutputFormat.JSON:
        print_json(figures)
    else:
        print_table(("FIGURE", "VALUE"), _rows(figures))


def _sessions(workload: str, file: Path | None, seed: int, *, once: bool) -> Iterator[Session]:
    if workload == GENERATED:
        if file is not None or once:
            raise ValueError("name the file's format with --workload; the generator has no file and no recorded times")
        return generate(fitted_parameters(), seed)
    if file is None:
        raise ValueError(f"give the file in the format {workload} with --file")
    loaded = load(workload, file)
    if not loaded:
        raise ValueError(f"{file} has no sessions")
    return iter(sorted(loaded, key=lambda session: session.start_seconds)) if once else shuffled_forever(loaded, seed)


def _arrivals(
    sessions: Iterator[Session], rate: float | None, population: int, ramp: float, seed: int, recorded: bool
) -> Arrivals:
    if rate is not None and recorded:
        raise ValueError("--rate and --recorded exclude each other")
    if rate is not None or recorded:
        return OpenLoop(sessions, rate, seed)
    return ClosedLoop(sessions, population, ramp)


def _rows(figures: Report) -> Iterator[tuple[str, str]]:
    yield "steps", f"{figures.steps:,} in {figures.simulated_seconds:,.0f} s ({figures.steps_per_second:.2f}/s)"
    yield "sessions", f"{figures.sessions_started:,} started, {figures.sessions_ended:,} ended"
    yield "hit ratio", f"{figures.hit_ratio:.1%} (endless cache {figures.endless_cache_hit_ratio:.1%})"
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
