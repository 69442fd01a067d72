"""Wakes: who waits for room is told when something was released, in any gateway."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

TICK_SECONDS = (0.25, 1.0)
"""A message may be lost, so everybody looks by himself after a random time between these."""


class Wakes:
    """One subscription per channel, shared by all who wait in this process."""

    def __init__(self, pubsub: Callable[[], Any]) -> None:
        self._pubsub = pubsub
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def of(self, channel: str) -> AsyncIterator[None]:
        """Yields after a message on `channel`, and at least every second."""
        woken = asyncio.Event()
        self._enter(channel, woken)
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(*TICK_SECONDS)):
                        await woken.wait()
                woken.clear()
                yield
        finally:
            self._leave(channel, woken)

    def _enter(self, channel: str, woken: asyncio.Event) -> None:
        self._waiting.setdefault(channel, set()).add(woken)
        if channel not in self._tasks:
            self._tasks[channel] = asyncio.create_task(self._listen(channel), name=f"wakes {channel}")

    def _leave(self, channel: str, woken: asyncio.Event) -> None:
        self._waiting[channel].discard(woken)
        if not self._waiting[channel]:
            del self._waiting[channel]
            self._tasks.pop(channel).cancel()

    async def _listen(self, channel: str) -> None:
        """Subscribes again whenever the connection breaks; meanwhile the ticks do."""
        while self._wanted(channel):
            with suppress(RedisError, RedisClusterException, OSError):
                await self._subscribe(channel)
            await asyncio.sleep(random.uniform(*TICK_SECONDS))

    async def _subscribe(self, channel: str) -> None:
        pubsub = self._pubsub()
        try:
            await pubsub.subscribe(channel)
            while self._wanted(channel):  # looked at now and then: the library may swallow a cancellation
                if await pubsub.get_message(ignore_subscribe_messages=False, timeout=TICK_SECONDS[1]):
                    for woken in self._waiting.get(channel, ()):
                        woken.set()
        finally:
            with suppress(RedisError, OSError):
                await pubsub.aclose()

    def _wanted(self, channel: str) -> bool:
        return not self._closed and channel in self._waiting

    async def aclose(self) -> None:
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
