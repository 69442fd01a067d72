"""The bf16 scene: a few sessions on one bf16 worker, evicted once, compared with the fp32 oracle and not judged."""

import asyncio
from pathlib import Path
from typing import Any

from roost_operator.demo.agents import Agent, cast
from roost_operator.demo.journal import Journal
from roost_operator.demo.pools import bfloat16_pool
from roost_operator.demo.run import Settings, connect_all, read_logs, session_logs
from roost_operator.demo.scene import Scene
from roost_operator.demo.tools import Toolbox
from roost_operator.demo.verify import verify
from roost_operator.local.events import Report
from roost_operator.local.runner import LocalStack

SESSIONS = 2


async def bfloat16_scene(settings: Settings, oracle_model: Path, report: Report) -> dict[str, Any]:
    """How many tokens of a bf16 worker are not the fp32 oracle's choice."""
    options = settings.stack("bf16", ray=False, gateways=1)
    scene = Scene()
    with Journal(settings.state_dir / "journal-bf16.jsonl") as journal:
        async with LocalStack(bfloat16_pool(), options, report) as stack, connect_all(stack) as (client,):
            toolbox = Toolbox.over(settings.project)
            agents = [Agent(part, client, 0, toolbox, journal, scene) for part in cast(SESSIONS)]
            await asyncio.gather(*(agent.run() for agent in agents))
            logs = await read_logs(client, agents)
    verdict = await verify(oracle_model, session_logs(agents, logs))
    return {
        "positions": verdict.positions,
        "differences": verdict.near_ties + verdict.wrong,
        "largest_gap": round(verdict.largest_gap, 4),
    }
