"""A background task per pool, which reconciles it whenever it is woken.

It does what `@kopf.daemon` would do, if kopf 1.45.2 did not add its finalizer for it (see `handlers.py`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

LOG = logging.getLogger(__name__)
FIRST_DELAY, LONGEST_DELAY = 0.5, 20.0
"""Seconds until a failure is tried again; the delay doubles with each failure in a row."""
Key = tuple[str, str]
"""Namespace and name of a pool."""


class Reconciliations:
    """Reconciles pools, never one of them twice at the same time, and `at_once` of them at most."""

    def __init__(self, reconcile: Callable[[str, str], Awaitable[object]], at_once: int = 4) -> None:
        """`reconcile(namespace, name)` returns None for a pool that does not exist."""
        self._reconcile, self._places = reconcile, asyncio.Semaphore(at_once)
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._woken: dict[Key, asyncio.Event] = {}
        self._waiting: set[Key] = set()
        self._running: dict[Key, float] = {}
        """When each running reconciliation began, by the monotonic clock."""
        self._last_begin = time.monotonic()

    @property
    def depth(self) -> int:
        """How many pools wait for their reconciliation."""
        return len(self._waiting)

    def standing_since(self) -> float | None:
        """Start of the oldest running reconciliation, or the last start if pools wait (monotonic); None when idle."""
        times = [*self._running.values(), *([self._last_begin] if self._waiting else [])]
        return min(times, default=None)

    def wake(self, namespace: str, name: str) -> None:
        """Schedules a reconciliation; one more if one is running."""
        key = (namespace, name)
        if not self._waiting:
            self._last_begin = time.monotonic()
        self._waiting.add(key)
        self._woken.setdefault(key, asyncio.Event()).set()
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._keep(key))

    async def aclose(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        self._woken.clear()
        self._waiting.clear()

    async def _keep(self, key: Key) -> None:
        """Reconciles one pool whenever it is woken, until it no longer exists."""
        woken, failures, exists = self._woken[key], 0, True
        while exists or woken.is_set():
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (failures - 1)) if failures else None
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await woken.wait()
            async with self._places:
                woken.clear()
                self._waiting.discard(key)
                self._running[key] = self._last_begin = time.monotonic()
                try:
                    exists, failures = await self._reconcile(*key) is not None, 0
                except Exception as error:
                    failures += 1
                    LOG.warning("%s/%s: %s: %s", *key, type(error).__name__, error)
                finally:
                    del self._running[key]
        del self._tasks[key], self._woken[key]
