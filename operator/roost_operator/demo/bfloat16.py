"""The bf16 scene: a few sessions on one bf16 worker, whose tokens are compared with the fp32 oracle but not judged."""

import asyncio
from dataclasses import replace
from typing import Any

from roost_operator.demo.agents import Agent, Part, cast
from roost_operator.demo.journal import Journal
from roost_operator.demo.pools import bfloat16_pool
from roost_operator.demo.run import DemoOptions, connect_all, read_logs, session_logs
from roost_operator.demo.scene import Scene
from roost_operator.demo.tools import Toolbox
from roost_operator.demo.verify import CommittedLog, Verification
from roost_operator.local.events import Report
from roost_operator.local.runner import LocalStack

SESSIONS = 2


async def play_bfloat16(options: DemoOptions, report: Report) -> list[CommittedLog]:
    """Logs of sessions on a bf16 worker, each evicted once. Raises what `LocalStack` does."""
    stack_options = options.stack("bf16", ray=False, gateways=1, threads=options.half_the_cores)
    scene = Scene()
    with Journal(options.state_dir / "journal-bf16.jsonl") as journal:
        async with LocalStack(bfloat16_pool(), stack_options, report) as stack, connect_all(stack) as (client,):
            toolbox = Toolbox.over(options.project)
            agents = [Agent(part, client, 0, toolbox, journal, scene) for part in _parts()]
            await asyncio.gather(*(agent.run() for agent in agents))
            return session_logs(agents, await read_logs(client, agents))


def _parts() -> list[Part]:
    """The first question of each part, evicted while its tool runs."""
    return [replace(part, questions=part.questions[:1], evict_after=0) for part in cast(SESSIONS)]


def differences(verification: Verification) -> dict[str, Any]:
    """How many tokens of a bf16 worker differ from the fp32 oracle's choice."""
    return {
        "positions": verification.positions,
        "differences": verification.near_ties + verification.wrong,
        "largest_gap": round(verification.largest_gap, 4),
    }
