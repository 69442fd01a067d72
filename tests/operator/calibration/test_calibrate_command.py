"""`roost calibrate`, on the engine of a tiny model."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.costs_file import costs_of
from roost_operator.calibration import commands
from roost_operator.calibration.commands import calibrate
from roost_operator.calibration.comparison import Figures, compare
from roost_worker.config import ModelConfig, WorkerConfig

app = typer.Typer()
app.command()(calibrate)
QUICK = ("--repeats", "1", "--context-tokens", "512", "--max-running", "4", "--dtype", "float32")


def test_it_writes_costs_that_simulate_reads_and_compares_them(tmp_path: Path) -> None:
    out = tmp_path / "costs.json"
    check = ("--rounds", "1", "--sessions", "3", "--steps", "10", "-o", "json")
    cache = ("--cache-dir", str(tmp_path / "cache"))
    result = CliRunner().invoke(app, ["dummy://llama-tiny", "--out", str(out), *QUICK, *check, *cache])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    costs = costs_of(str(out))
    assert document["measured"]["costs"]["step_seconds"] == costs.step_seconds > 0
    assert costs.chunk_tokens == 256
    assert costs.copy_token_seconds == document["measured"]["costs"]["copy_token_seconds"]
    assert costs.copy_token_seconds != WorkerCosts().copy_token_seconds, "it is measured"
    figures = [comparison["figure"] for comparison in document["comparisons"]]
    assert figures == ["steps per second", "hit ratio", "TTFT p50 (s)", "TTFT p95 (s)"]
    assert all(comparison["engine"] > 0 for comparison in document["comparisons"])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("dummy://nothing",), "dummy://nothing is unknown; use one of"),
        (("dummy://llama-tiny", "--dtype", "int8"), "dtype: 'int8' is unknown"),
        (("dummy://llama-tiny", "--quantization", "int4"), "quantization: 'int4' is unknown; use one of none, int8"),
        (("dummy://llama-tiny", "--kv-dtype", "fp8"), "kvCache.dtype: 'fp8' is unknown; use one of auto, int8"),
        (("dummy://llama-tiny", "--determinism", "lax"), "determinism: 'lax' is unknown; use one of relaxed, strict"),
        (("dummy://llama-tiny", "--kernels", "cuda"), "kernels: 'cuda' is unknown; use one of auto, torch, triton"),
        (("dummy://llama-tiny", "--max-batch-tokens", "2"), "must be at least maxRunning"),
    ],
)
def test_a_wrong_choice_is_an_error_that_says_what_to_do(
    arguments: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, [*QUICK, *arguments, "--out", str(tmp_path / "costs.json")])
    assert result.exit_code == 1
    assert problem in result.output.replace("\n", " ")


def test_it_measures_the_engine_that_a_pool_with_these_options_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[WorkerConfig] = []

    async def measured(config: WorkerConfig, *_: object) -> None:
        configs.append(config)
        raise ValueError("enough")

    monkeypatch.setattr(commands, "measure", measured)
    chosen = ("--quantization", "int8", "--determinism", "strict", "--kernels", "triton", "--tensor-parallel", "2")
    chosen += ("--kv-dtype", "int8")
    files = ("--out", str(tmp_path / "costs.json"), "--cache-dir", str(tmp_path / "cache"))
    assert CliRunner().invoke(app, ["dummy://llama-tiny", *QUICK, *chosen, *files]).exit_code == 1
    model = ModelConfig(
        "calibrated", "dummy://llama-tiny", "float32", 2, 512, determinism="strict", quantization="int8"
    )
    assert [(config.model, config.kv.dtype, config.engine.kernels) for config in configs] == [(model, "int8", "triton")]


def test_errors_are_relative_to_the_engine_and_the_median_of_rounds() -> None:
    engine = Figures(10.0, 0.8, 0.1, 1.0)
    rounds = [(engine, Figures(factor * 10.0, 0.8, 0.1, 1.0)) for factor in (1.5, 0.95, 1.0)]
    steps, hits, *_ = compare(rounds)
    assert (steps.figure, steps.engine, steps.simulated) == ("steps per second", 10.0, 10.0)
    assert steps.error == pytest.approx(0.05)
    assert steps.meets_goal
    assert hits.error == 0.0
    assert not compare(rounds[:1])[0].meets_goal
