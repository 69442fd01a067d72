"""Delivers outputs from a thread to the event loop."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

from roost_worker.engine.messages import Outputs
from roost_worker.seam.client import EngineDeadError


class Delivery:
    """A queue from any thread to one consumer in the loop that created it.

    It is not bounded, but an output is a token of a running request, so few of them wait to be read.
    """

    def __init__(self) -> None:
        self.heartbeat = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Outputs | None] = asyncio.Queue()
        self._lock = threading.Lock()
        self._end: EngineDeadError | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether no more outputs will be put."""
        return self._ended

    def beat(self) -> None:
        """Record a sign of life."""
        self.heartbeat = time.monotonic()

    def put(self, outputs: Outputs) -> None:
        """Deliver `outputs`. Thread-safe."""
        self.beat()
        self._post(outputs)

    def end(self, reason: EngineDeadError | None = None) -> None:
        """End the outputs, with `reason` if the engine died. Only the first call counts. Thread-safe."""
        with self._lock:
            if self._ended:
                return
            self._ended, self._end = True, reason
        self._post(None)

    def check(self) -> None:
        """Raise EngineDeadError when the outputs have ended."""
        if self._ended:
            raise self._death() or EngineDeadError("the engine is closed")

    async def outputs(self) -> AsyncIterator[Outputs]:
        """Yield what was put; at the end, raise EngineDeadError if the engine died."""
        while (outputs := await self._queue.get()) is not None:
            yield outputs
        self._queue.put_nowait(None)
        if death := self._death():
            raise death

    def _death(self) -> EngineDeadError | None:
        return EngineDeadError(*self._end.args) if self._end else None

    def _post(self, item: Outputs | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
