"""Which pools are to be reconciled: each once, never twice at the same time, failures later and later."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

LOG = logging.getLogger(__name__)
FIRST_DELAY, LONGEST_DELAY = 0.5, 20.0
Reconcile = Callable[[str, str], Awaitable[object]]
Key = tuple[str, str]


class Queue:
    """Runs `reconcile(namespace, name)` for what is asked for, `workers` at once."""

    def __init__(self, reconcile: Reconcile, workers: int = 4) -> None:
        self._reconcile, self._workers = reconcile, workers
        self._waiting: dict[Key, None] = {}
        self._running: dict[Key, float] = {}
        """Since when, by the monotonic clock."""
        self._moved = time.monotonic()
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()

    @property
    def depth(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def stuck_since(self) -> float | None:
        """Since when the oldest reconciliation runs, or since when none was begun of those that wait; None: there is
        nothing to do. By the monotonic clock."""
        times = [*self._running.values(), *([self._moved] if self._waiting else [])]
        return min(times) if times else None

    def ask(self, namespace: str, name: str) -> None:
        """Asks for a pool; one that waits already is not asked for twice, one that runs is run once more."""
        if not self._waiting:
            self._moved = time.monotonic()
        self._waiting[(namespace, name)] = None
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._take()
            try:
                await self._reconcile(*key)
                self._failures.pop(key, None)
            except Exception as error:
                self._retry(key, error)
            finally:
                self._running.pop(key, None)
                self._changed.set()

    async def _take(self) -> Key:
        while True:
            key = next((key for key in self._waiting if key not in self._running), None)
            if key is not None:
                del self._waiting[key]
                self._running[key] = self._moved = time.monotonic()
                return key
            self._changed.clear()
            await self._changed.wait()

    def _retry(self, key: Key, error: Exception) -> None:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (count - 1))
        LOG.warning("%s/%s: %s: %s; again in %.1f s", *key, type(error).__name__, error, delay)
        asyncio.get_running_loop().call_later(delay, self.ask, *key)
