"""Work that outlives its call: what is owed to worker and store when a client goes."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from roost_gateway.errors import as_refused

log = logging.getLogger(__name__)


class Background:
    """Tasks that run by themselves; their failures are logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        self.adopt(asyncio.create_task(work))

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        """Keeps a task and logs its failure."""
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def finish(self, seconds: float) -> None:
        """Waits for everything at most so long, then cancels the rest."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            expected = as_refused(error) is not None
            log.warning("what was left of a step failed: %s", error, exc_info=None if expected else error)
