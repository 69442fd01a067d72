"""`roost demo`."""

import asyncio
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import roost_operator
from roost.cli.report import report
from roost_operator.demo.report import conclusion
from roost_operator.demo.run import DemoOptions
from roost_operator.demo.show import show
from roost_operator.demo.verify import VerificationError
from roost_operator.local.commands import STARTUP_ERRORS, stopped_by_signals


def demo(
    sessions: Annotated[int, typer.Option(min=3, max=24, help="Agent sessions.")] = 12,
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Workers as Ray Serve replicas.")] = True,
    bfloat16: Annotated[bool, typer.Option(help="Also play the short bf16 scene.")] = True,
    keep: Annotated[Path | None, typer.Option(help="Keep state, logs and journal in this directory.")] = None,
) -> None:
    """Run agents with real tools on a real model while a worker, a gateway and Redis are killed; then 40 come at once.

    The last line of stdout is one JSON document. The exit status is not 0 when anything was lost, doubled or wrong.
    """
    begin = time.monotonic()
    console = Console(stderr=True, highlight=False)
    directory = keep or Path(tempfile.mkdtemp(prefix="roost-demo-"))
    options = DemoOptions(sessions=sessions, state_dir=directory, project=_project(), ray=ray)
    document: dict[str, Any] | None = None
    try:
        document = asyncio.run(_run(options, console, begin, with_bfloat16=bfloat16))
    except (*STARTUP_ERRORS, VerificationError) as error:
        report(str(error))
    if document and document["passed"] and keep is None:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        console.print(f"State, logs and journal: {directory}", soft_wrap=True)
    if not document:
        raise typer.Exit(1 if document is None else 130)
    console.print(conclusion(document), style="bold green" if document["passed"] else "bold red", soft_wrap=True)
    print(json.dumps(document))
    raise typer.Exit(0 if document["passed"] else 1)


async def _run(options: DemoOptions, console: Console, begin: float, *, with_bfloat16: bool) -> dict[str, Any]:
    """The report; empty when a signal ended the demo first."""
    options.state_dir.mkdir(parents=True, exist_ok=True)
    with stopped_by_signals(console):
        return await show(options, console, begin, with_bfloat16=with_bfloat16)
    return {}


def _project() -> Path:
    """The checkout that the demo runs from, else the current folder."""
    checkout = Path(roost_operator.__file__).parents[2]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()
