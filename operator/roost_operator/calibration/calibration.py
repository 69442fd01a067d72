"""Calibrates the simulator against an engine: measures its costs, then compares both on one workload."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from roost_gateway.simulator.arrivals import ClosedLoop
from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.generator import Parameters, fitted_parameters, generate
from roost_gateway.simulator.policies import policy_factory
from roost_gateway.simulator.simulation import Fleet, Simulation
from roost_gateway.simulator.worker import WorkerSettings
from roost_operator.calibration.comparison import Comparison, Figures, compare, figures_of
from roost_operator.calibration.fitting import fit_costs, fit_errors
from roost_operator.calibration.measure import Measurement, Report
from roost_operator.calibration.points import Engine
from roost_operator.calibration.replay import Replay
from roost_operator.calibration.small_sessions import small, working_set_tokens
from roost_operator.calibration.timed_engine import TimedEngine
from roost_worker.config import WorkerConfig
from roost_worker.engine.messages import EngineInfo
from roost_worker.seam.process_engine import start_process_engine
from roost_worker.seam.subprocess_spawner import SubprocessSpawner

PRESSURE = 1.3
"""Working set of a check's sessions, of the KV that its engine gets."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The costs of an engine, and by which part they miss what was measured, in the median."""

    costs: WorkerCosts
    prefill_error: float
    decode_error: float
    bytes_per_block: int


@dataclass(frozen=True, slots=True)
class Check:
    """How the simulator is compared with the engine."""

    sessions: int
    """At any time."""
    steps: int
    rounds: int
    """Each with other sessions."""
    seed: int


async def measure(config: WorkerConfig, model_dir: Path, repeats: int, report: Report) -> Measured:
    """Measure an engine of this configuration, and one with little KV and host memory for what leaves it.

    Raise EngineStartError, EngineDeadError, and ValueError when it is too small to be measured.
    """
    async with _engine(config, model_dir) as (engine, info):
        limits = _limits(config, info)
        measurement = Measurement(engine, limits, info.vocab_size, repeats, report)
        await measurement.warm_up()
        prefills, decodes = await measurement.prefills(), await measurement.decodes()
    async with _engine(_with_host_memory(config, info.bytes_per_block), model_dir) as (engine, info):
        measurement = Measurement(engine, _limits(config, info), info.vocab_size, repeats, report)
        copying = await measurement.copy_token_seconds()
    costs = replace(fit_costs(prefills, decodes, limits.chunk_tokens), copy_token_seconds=copying)
    return Measured(costs, *fit_errors(costs, prefills, decodes), info.bytes_per_block)


async def check(
    config: WorkerConfig, model_dir: Path, measured: Measured, plan: Check, report: Report
) -> list[Comparison]:
    """Run a small workload on an engine and in the simulator with its costs, `plan.rounds` times, and compare them.

    The engine gets so little KV that the workload's sessions do not all fit. Raise as `measure` does.
    """
    parameters = small(fitted_parameters(), config.model.context_tokens - 1)
    config = _with_kv_for(config, working_set_tokens(parameters, plan.sessions) / PRESSURE, measured.bytes_per_block)
    rounds: list[tuple[Figures, Figures]] = []
    async with _engine(config, model_dir) as (engine, info):
        for seed in range(plan.seed, plan.seed + plan.rounds):
            replayed = Replay(engine, info.vocab_size, seed)
            figures = await replayed.run(generate(parameters, seed), plan.sessions, plan.steps)
            rounds.append((figures, _simulated(config, info, measured.costs, parameters, plan, seed)))
            report(f"round {len(rounds)} of {plan.rounds}: engine {rounds[-1][0]}, simulator {rounds[-1][1]}")
    return compare(rounds)


def _simulated(
    config: WorkerConfig, info: EngineInfo, costs: WorkerCosts, parameters: Parameters, plan: Check, seed: int
) -> Figures:
    settings = WorkerSettings(
        kv_tokens=info.capacity_tokens,
        block_tokens=info.block_tokens,
        max_running=config.engine.max_running,
        costs=costs,
        context_tokens=info.context_tokens,
    )
    loop = ClosedLoop(generate(parameters, seed), plan.sessions)
    policy = policy_factory(settings, config.kv.eviction_policy)
    return figures_of(Simulation(Fleet(1, settings, reserves=False), policy, loop).run(plan.steps))


def _limits(config: WorkerConfig, info: EngineInfo) -> Engine:
    return Engine(info.context_tokens, info.capacity_tokens, config.engine.max_running, config.engine.max_batch_tokens)


def _with_kv_for(config: WorkerConfig, tokens: float, bytes_per_block: int) -> WorkerConfig:
    """Return the configuration with KV memory for so many tokens, and for one context at least."""
    blocks = int(max(tokens, config.model.context_tokens)) // config.kv.block_tokens + 2
    return replace(config, kv=replace(config.kv, memory_bytes=blocks * bytes_per_block))


def _with_host_memory(config: WorkerConfig, bytes_per_block: int) -> WorkerConfig:
    """Return the configuration with KV memory for one context, and host memory for two."""
    config = _with_kv_for(config, 0, bytes_per_block)
    assert config.kv.memory_bytes is not None, "it has just been set"
    return replace(config, kv=replace(config.kv, host_memory_bytes=2 * config.kv.memory_bytes))


@asynccontextmanager
async def _engine(config: WorkerConfig, model_dir: Path) -> AsyncIterator[tuple[TimedEngine, EngineInfo]]:
    client = await start_process_engine(config, model_dir, SubprocessSpawner())
    async with TimedEngine(client) as engine:
        yield engine, client.info
