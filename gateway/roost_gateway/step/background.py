"""Tasks that outlive a call, such as the abort and the cancel after a client has left."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from roost.contract.refused import Refused
from roost.store.records import StoreAwayError

log = logging.getLogger(__name__)


class Background:
    """Tasks that nobody waits for. Their failures are logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        self.adopt(asyncio.create_task(work))

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        """Keeps a running task until it ends."""
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def idle(self) -> None:
        """Waits for all of it, also for what it spawns on the way."""
        while self._tasks:  # a step that was cut off spawns its abort when it ends
            await asyncio.wait(self._tasks)

    async def finish(self, seconds: float) -> None:
        """Waits `seconds` until it is idle, then cancels the rest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.idle()
        late = list(self._tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            expected = isinstance(error, Refused | StoreAwayError)
            log.warning("work left over from a step failed: %s", error, exc_info=None if expected else error)
