"""The bf16 scene: a few sessions on one bf16 worker, compared with the fp32 oracle and not judged."""

import asyncio
from dataclasses import replace
from typing import Any

from roost_operator.demo.agents import Agent, Part, cast
from roost_operator.demo.journal import Journal
from roost_operator.demo.pools import bfloat16_pool
from roost_operator.demo.run import Settings, connect_all, read_logs, session_logs
from roost_operator.demo.scene import Scene
from roost_operator.demo.tools import Toolbox
from roost_operator.demo.verify import SessionLog, Verdict
from roost_operator.local.events import Report
from roost_operator.local.runner import LocalStack

SESSIONS = 2


async def play_bfloat16(settings: Settings, report: Report) -> list[SessionLog]:
    """Logs of sessions on a bf16 worker, each evicted once. Raises what `LocalStack` does."""
    options = settings.stack("bf16", ray=False, gateways=1, threads=settings.half_the_cores)
    scene = Scene()
    with Journal(settings.state_dir / "journal-bf16.jsonl") as journal:
        async with LocalStack(bfloat16_pool(), options, report) as stack, connect_all(stack) as (client,):
            toolbox = Toolbox.over(settings.project)
            agents = [Agent(part, client, 0, toolbox, journal, scene) for part in _parts()]
            await asyncio.gather(*(agent.run() for agent in agents))
            return session_logs(agents, await read_logs(client, agents))


def _parts() -> list[Part]:
    """The first question of each part, evicted while its tool runs."""
    return [replace(part, questions=part.questions[:1], evict_after=0) for part in cast(SESSIONS)]


def differences(verdict: Verdict) -> dict[str, Any]:
    """How many tokens of a bf16 worker are not the fp32 oracle's choice."""
    return {
        "positions": verdict.positions,
        "differences": verdict.near_ties + verdict.wrong,
        "largest_gap": round(verdict.largest_gap, 4),
    }
