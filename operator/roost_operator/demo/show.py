"""The whole show: the agents on the stage, the oracle's verdict, the bf16 scene, the report."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from roost_operator.demo.bfloat16 import differences, play_bfloat16
from roost_operator.demo.journal import Findings, compare
from roost_operator.demo.report import Outcome, report
from roost_operator.demo.run import Played, Settings, play, session_logs
from roost_operator.demo.scene import Scene
from roost_operator.demo.verify import Judge, Verdict
from roost_operator.demo.view import render
from roost_operator.local.commands import Reporter
from roost_operator.local.events import Event

_FRAME_SECONDS = 0.25


async def show(settings: Settings, console: Console, begin: float, *, with_bfloat16: bool) -> dict[str, Any]:
    """The report. `begin` is when the command began, by `time.monotonic`.

    Raises what `LocalStack` does, and VerificationError.
    """
    reporter, scene = Reporter(console), Scene()

    def tell(event: Event) -> None:
        if scene.on_stage:
            scene.tell(event.text)
        else:
            reporter(event)

    async with contextlib.AsyncExitStack() as exits:
        async with play(settings, scene, tell, _stage(console, reporter, scene)) as played:
            console.print("The agents have finished; the oracle reads their logs.")
            findings = _compare(played, console)
            judge = Judge(played.model_dir, settings.state_dir / "oracle.log", settings.half_the_cores)
            await exits.enter_async_context(judge)
        verdict, bfloat16 = await _verify(settings, played, judge, reporter, with_bfloat16=with_bfloat16)
    reporter.close()
    seconds = {
        "start": scene.begin - begin,
        "agents": scene.end - scene.begin,
        "verify": time.monotonic() - scene.end,
    }
    return report(_outcome(played, findings, verdict, bfloat16, seconds))


def _compare(played: Played, console: Console) -> Findings:
    findings = compare(played.journal, played.logs)
    for fault in (*findings.lost, *findings.doubled, *findings.wrong):
        console.print(escape(fault), style="red", soft_wrap=True)
    return findings


async def _verify(
    settings: Settings, played: Played, judge: Judge, reporter: Reporter, *, with_bfloat16: bool
) -> tuple[Verdict, dict[str, Any]]:
    """The verdict on the agents' logs; meanwhile the bf16 scene is played, and its differences are counted."""
    judging = asyncio.create_task(judge.verdict(session_logs(played.agents, played.logs)))
    if with_bfloat16:
        reporter(Event("Meanwhile a short scene on a bf16 worker, whose differences are counted and not judged."))
    try:
        logs = await play_bfloat16(settings, reporter) if with_bfloat16 else []
        verdict = await judging
    finally:
        judging.cancel()
    return verdict, differences(await judge.verdict(logs)) if logs else {}


def _outcome(
    played: Played, findings: Findings, verdict: Verdict, bfloat16: dict[str, Any], seconds: dict[str, float]
) -> Outcome:
    return Outcome(
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
        stage_seconds=seconds,
    )


@contextlib.asynccontextmanager
async def _stage(console: Console, reporter: Reporter, scene: Scene) -> AsyncIterator[None]:
    """The live table while the agents play; lines where there is no terminal."""
    reporter.close()
    scene.on_stage = True
    try:
        if not console.is_terminal:
            scene.on_happening = lambda line: console.print(escape(line), soft_wrap=True)
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
