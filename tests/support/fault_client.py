"""A client that takes one step, for a process of its own that a test can kill."""

import asyncio
from collections.abc import Sequence

from roost import Client, Sampling


def take_step(targets: Sequence[str], session_id: str, step_id: str, text: str, sampling: Sampling) -> None:
    """Returns when the step has ended."""
    asyncio.run(_take_step(targets, session_id, step_id, text, sampling))


async def _take_step(targets: Sequence[str], session_id: str, step_id: str, text: str, sampling: Sampling) -> None:
    async with await Client.connect(targets) as client:
        async for _ in client.session(session_id).step(text, step_id=step_id, sampling=sampling):
            pass
