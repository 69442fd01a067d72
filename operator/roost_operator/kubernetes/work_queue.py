"""Which pools are to be reconciled: each once, never twice at the same time, failures later and later."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

LOG = logging.getLogger(__name__)
FIRST_DELAY, LONGEST_DELAY = 0.5, 20.0
Reconcile = Callable[[str, str], Awaitable[object]]
Key = tuple[str, str]


class Queue:
    """Runs `reconcile(namespace, name)` for what is added, `workers` at once."""

    def __init__(self, reconcile: Reconcile, workers: int = 4) -> None:
        self._reconcile, self._workers = reconcile, workers
        self._waiting: dict[Key, None] = {}
        self._running: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Condition()

    async def add(self, namespace: str, name: str) -> None:
        """Asks for a pool; one that waits already is not asked for twice, one that runs is run once more."""
        async with self._changed:
            self._waiting[(namespace, name)] = None
            self._changed.notify_all()

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
                async with self._changed:
                    self._running.discard(key)
                    self._changed.notify_all()

    async def _take(self) -> Key:
        async with self._changed:
            while True:
                key = next((key for key in self._waiting if key not in self._running), None)
                if key is not None:
                    del self._waiting[key]
                    self._running.add(key)
                    return key
                await self._changed.wait()

    def _retry(self, key: Key, error: Exception) -> None:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (count - 1))
        LOG.warning("%s/%s: %s: %s; again in %.1f s", *key, type(error).__name__, error, delay)
        loop = asyncio.get_running_loop()
        loop.call_later(delay, lambda: loop.create_task(self.add(*key)))
