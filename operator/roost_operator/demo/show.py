"""The whole demo: the agents, the oracle's verdict on their logs, the bf16 scene, and the report."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from roost import LoggedStep
from roost_operator.demo.bfloat16 import differences, play_bfloat16
from roost_operator.demo.journal import Findings, Journal, compare
from roost_operator.demo.report import DemoResult, SpikeResult, report
from roost_operator.demo.run import DemoOptions, Played, play, session_logs
from roost_operator.demo.scene import Scene
from roost_operator.demo.spike import AGENTS, JUDGED, STEPS
from roost_operator.demo.verify import CommittedLog, Judge, Verification
from roost_operator.demo.view import render
from roost_operator.local.commands import Reporter
from roost_operator.local.events import Notice

_FRAME_SECONDS = 0.25


async def show(options: DemoOptions, console: Console, begin: float, *, with_bfloat16: bool) -> dict[str, Any]:
    """Run the demo and return its report. `begin` is when the command began, by `time.monotonic`.

    Raises what `LocalStack` does, and VerificationError.
    """
    reporter, scene = Reporter(console), Scene()

    def notify(notice: Notice) -> None:
        if scene.on_stage:
            scene.tell(notice.text)
        else:
            reporter(notice)

    async with contextlib.AsyncExitStack() as exits:
        async with play(options, scene, notify, _stage(console, reporter, scene)) as played:
            console.print("The agents have finished; the oracle reads their logs.")
            findings = _compare(played.journal, played.logs, console)
            spike = _spike_result(played, console)
            judge = Judge(played.model_dir, options.state_dir / "oracle.log", options.half_the_cores)
            await exits.enter_async_context(judge)
        verification, bfloat16 = await _verify(options, played, judge, reporter, with_bfloat16=with_bfloat16)
    reporter.close()
    seconds = {
        "start": scene.begin - begin,
        "agents": scene.end - scene.begin,
        "spike": played.spike.seconds,
        "verify": time.monotonic() - scene.end - played.spike.seconds,
    }
    return report(_result(played, findings, spike, verification, bfloat16, seconds))


def _compare(journal: Journal, logs: Mapping[str, Sequence[LoggedStep]], console: Console) -> Findings:
    findings = compare(journal, logs)
    for fault in (*findings.lost, *findings.doubled, *findings.wrong):
        console.print(escape(fault), style="red", soft_wrap=True)
    return findings


def _spike_result(played: Played, console: Console) -> SpikeResult:
    spike = played.spike
    return SpikeResult(
        agents=AGENTS,
        steps_planned=STEPS * AGENTS,
        steps_sent=sum(len(steps) for steps in spike.journal.sent.values()),
        receipts=spike.journal.all_receipts(),
        findings=_compare(spike.journal, spike.logs, console),
        return_seconds=spike.return_seconds,
        hold_limit_seconds=played.hold_limit_seconds,
    )


async def _verify(
    options: DemoOptions, played: Played, judge: Judge, reporter: Reporter, *, with_bfloat16: bool
) -> tuple[Verification, dict[str, Any]]:
    """Judge the agents' logs and a few of the spike's; play the bf16 scene beside that, and count its differences."""
    of_spike = [CommittedLog(log, ()) for log in played.spike.logs.values()][:JUDGED]
    logs = [*session_logs(played.agents, played.logs), *of_spike]
    judging = asyncio.create_task(judge.verify(logs))
    if with_bfloat16:
        reporter(Notice("At the same time: a short scene on a bf16 worker, whose differences are counted, not judged."))
    try:
        bfloat16 = await play_bfloat16(options, reporter) if with_bfloat16 else []
        verification = await judging
    finally:
        judging.cancel()
    return verification, differences(await judge.verify(bfloat16)) if bfloat16 else {}


def _result(
    played: Played,
    findings: Findings,
    spike: SpikeResult,
    verification: Verification,
    bfloat16: dict[str, Any],
    seconds: dict[str, float],
) -> DemoResult:
    return DemoResult(
        sessions=len(played.agents),
        steps_planned=sum(agent.part.steps for agent in played.agents),
        steps_sent=sum(len(steps) for steps in played.journal.sent.values()),
        receipts=played.journal.all_receipts(),
        findings=findings,
        verification=verification,
        evicted=played.evicted,
        redis_restarts=played.redis_restarts,
        killed=played.killed,
        bfloat16=bfloat16,
        stage_seconds=seconds,
        spike=spike,
    )


@contextlib.asynccontextmanager
async def _stage(console: Console, reporter: Reporter, scene: Scene) -> AsyncIterator[None]:
    """Show the live table while the agents play, or lines if there is no terminal."""
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
