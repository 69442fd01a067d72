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
from roost.cli.output import report
from roost_operator.demo.report import conclusion
from roost_operator.demo.run import Settings
from roost_operator.demo.show import show
from roost_operator.demo.verify import VerificationError
from roost_operator.local.commands import STARTUP_ERRORS, Signals


def demo(
    sessions: Annotated[int, typer.Option(min=3, max=24, help="Agent sessions.")] = 12,
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Workers as Ray Serve replicas.")] = True,
    bfloat16: Annotated[bool, typer.Option(help="Also play the short bf16 scene.")] = True,
    keep: Annotated[Path | None, typer.Option(help="Keep state, logs and journal in this directory.")] = None,
) -> None:
    """Run agents with real tools on a real model while a worker, a gateway and Redis are killed.

    The last line of stdout is one JSON document; the exit status is not 0 when anything was lost, doubled or wrong.
    """
    begin = time.monotonic()
    console = Console(stderr=True, highlight=False)
    directory = keep or Path(tempfile.mkdtemp(prefix="roost-demo-"))
    settings = Settings(sessions=sessions, state_dir=directory, project=_project(), ray=ray)
    found: dict[str, Any] | None = {}
    try:
        found = asyncio.run(_run(settings, console, begin, with_bfloat16=bfloat16))
    except (*STARTUP_ERRORS, VerificationError) as error:
        report(str(error))
        found = None
    if found and found["passed"] and keep is None:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        console.print(f"State, logs and journal: {directory}", soft_wrap=True)
    if not found:
        raise typer.Exit(1 if found is None else 130)
    console.print(conclusion(found), style="bold green" if found["passed"] else "bold red", soft_wrap=True)
    print(json.dumps(found))
    raise typer.Exit(0 if found["passed"] else 1)


async def _run(settings: Settings, console: Console, begin: float, *, with_bfloat16: bool) -> dict[str, Any]:
    """The report; empty when a signal ended the demo first."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    signals = Signals(console)
    try:
        return await show(settings, console, begin, with_bfloat16=with_bfloat16)
    except (asyncio.CancelledError, *STARTUP_ERRORS):
        if not signals.stopping:  # else whatever was killed half way may complain
            raise
        console.print("Stopped.")
        return {}


def _project() -> Path:
    """The project's folder when the demo runs from a checkout, else the current one."""
    checkout = Path(roost_operator.__file__).parents[2]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()
