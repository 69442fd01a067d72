"""`roost demo`."""

import asyncio
import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

import roost_operator
from roost_operator.demo.bfloat16 import differences, play_bfloat16
from roost_operator.demo.journal import compare
from roost_operator.demo.report import Outcome, report
from roost_operator.demo.run import Settings, play, session_logs
from roost_operator.demo.scene import Scene
from roost_operator.demo.verify import Judge, VerificationError
from roost_operator.demo.view import render
from roost_operator.local.commands import STARTUP_ERRORS, Reporter, Signals, plain
from roost_operator.local.events import Event

_FRAME_SECONDS = 0.25


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
    found: dict[str, Any] = {}
    try:
        found = asyncio.run(_run(settings, console, begin, with_bfloat16=bfloat16))
    except (*STARTUP_ERRORS, VerificationError) as error:
        console.print(f"[bold red]error:[/] {plain(str(error))}", soft_wrap=True)
    if found.get("passed") and keep is None:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        console.print(f"State, logs and journal: {directory}", soft_wrap=True)
    if not found:
        raise typer.Exit(1)
    print(json.dumps(found))
    raise typer.Exit(0 if found["passed"] else 1)


async def _run(settings: Settings, console: Console, begin: float, *, with_bfloat16: bool) -> dict[str, Any]:
    """The report; empty when a signal ended the demo first."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    signals = Signals(console)
    try:
        return await _demo(settings, console, begin, with_bfloat16=with_bfloat16)
    except (asyncio.CancelledError, *STARTUP_ERRORS):
        if not signals.stopping:  # else whatever was killed half way may complain
            raise
        console.print("Stopped.")
        return {}


async def _demo(settings: Settings, console: Console, begin: float, *, with_bfloat16: bool) -> dict[str, Any]:
    reporter, scene = Reporter(console), Scene()

    def tell(event: Event) -> None:
        if scene.on_stage:
            scene.tell(event.text)
        else:
            reporter(event)

    played = await play(settings, scene, tell, _stage(console, reporter, scene))
    console.print("The agents have finished; the oracle reads their logs.")
    findings = compare(played.journal, played.logs)
    for fault in (*findings.lost, *findings.doubled, *findings.wrong):
        console.print(plain(fault), style="red", soft_wrap=True)
    bfloat16: dict[str, Any] = {}
    async with Judge(played.model_dir, settings.state_dir / "oracle.log") as judge:
        judging = asyncio.create_task(judge.verdict(session_logs(played.agents, played.logs)))
        try:
            logs = await play_bfloat16(settings, reporter) if with_bfloat16 else []
            verdict = await judging
        finally:
            judging.cancel()
        if logs:
            bfloat16 = differences(await judge.verdict(logs))
    reporter.close()
    return report(
        Outcome(
            sessions=len(played.agents),
            steps_planned=sum(agent.part.steps for agent in played.agents),
            steps_sent=sum(len(steps) for steps in played.journal.sent.values()),
            receipts=played.journal.all_receipts(),
            findings=findings,
            verdict=verdict,
            evicted=played.evicted,
            redis_restarts=played.redis_restarts,
            killed=played.killed,
            bfloat16=bfloat16,
            wall_seconds=time.monotonic() - begin,
        )
    )


@contextlib.asynccontextmanager
async def _stage(console: Console, reporter: Reporter, scene: Scene) -> AsyncIterator[None]:
    """The live table while the agents play; lines where there is no terminal."""
    reporter.close()
    scene.on_stage = True
    try:
        if not console.is_terminal:
            scene.on_happening = lambda line: console.print(plain(line), soft_wrap=True)
            yield
            return
        with Live(render(scene), console=console, auto_refresh=False) as live:
            drawing = asyncio.create_task(_draw(live, scene))
            try:
                yield
            finally:
                drawing.cancel()
                live.update(render(scene), refresh=True)
    finally:
        scene.on_stage = False


async def _draw(live: Live, scene: Scene) -> None:
    while True:
        live.update(render(scene), refresh=True)
        await asyncio.sleep(_FRAME_SECONDS)


def _project() -> Path:
    """The project's folder when the demo runs from a checkout, else the current one."""
    checkout = Path(roost_operator.__file__).parents[2]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()
