"""Wakes: news of what any gateway releases, for steps that wait for room."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from roost.store.wake import Wake

TICK_SECONDS = (0.25, 1.0)
"""A message may be lost, so every listener also gets a wake after a random time between these."""
ANYTHING = Wake()
_MOST_NEWS = 1000
"""A listener that is further behind gets one wake instead, which may concern any step."""


def read_wake(message: bytes) -> Wake:
    """The news in a message. That of another version of Roost may concern any step."""
    try:
        news = json.loads(message)
        return Wake(
            worker_id=str(news.get("worker", "")),
            reserved_tokens=int(news["tokens"]) if "tokens" in news else None,
            reserved_attempts=int(news["attempts"]) if "attempts" in news else None,
            live_tokens=int(news["live"]) if "live" in news else None,
            line=str(news["line"]) if "line" in news else None,
        )
    except (ValueError, TypeError, AttributeError):
        return ANYTHING


class _Inbox:
    """News that a listener has not taken yet."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self._news: list[Wake] = []

    def put(self, wake: Wake) -> None:
        if wake == ANYTHING and self._news[-1:] == [ANYTHING]:
            return  # it says nothing new
        self._news.append(wake)
        if len(self._news) > _MOST_NEWS:
            self._news = [ANYTHING]
        self.woken.set()

    def take(self) -> list[Wake]:
        """The news, or one wake that may concern any step, since a message may have been lost."""
        self.woken.clear()
        news, self._news = self._news or [ANYTHING], []
        return news


class Wakes:
    """One subscription for each channel, shared by all steps that wait in this process."""

    def __init__(self, pubsub: Callable[[], Any]) -> None:
        self._pubsub = pubsub
        self._waiting: dict[str, set[_Inbox]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def of(self, channel: str) -> AsyncGenerator[Wake, None]:
        """Yields each message on `channel`, and something at least every second."""
        inbox = _Inbox()
        self._enter(channel, inbox)
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(*TICK_SECONDS)):
                        await inbox.woken.wait()
                for wake in inbox.take():
                    yield wake
        finally:
            self._leave(channel, inbox)

    def _enter(self, channel: str, inbox: _Inbox) -> None:
        self._waiting.setdefault(channel, set()).add(inbox)
        if channel not in self._tasks:
            self._tasks[channel] = asyncio.create_task(self._listen(channel), name=f"wakes {channel}")

    def _leave(self, channel: str, inbox: _Inbox) -> None:
        self._waiting[channel].discard(inbox)
        if not self._waiting[channel]:
            del self._waiting[channel]
            self._tasks.pop(channel).cancel()

    async def _listen(self, channel: str) -> None:
        """Subscribes again whenever the connection breaks; in between the random wakes serve."""
        while self._wanted(channel):
            with suppress(RedisError, RedisClusterException, OSError):
                await self._subscribe(channel)
            await asyncio.sleep(random.uniform(*TICK_SECONDS))

    async def _subscribe(self, channel: str) -> None:
        pubsub = self._pubsub()
        try:
            await pubsub.subscribe(channel)
            while self._wanted(channel):  # checked now and then: the library may swallow a cancellation
                message = await pubsub.get_message(ignore_subscribe_messages=False, timeout=TICK_SECONDS[1])
                if message:  # also that of the subscription itself: what came before it is lost
                    wake = read_wake(message["data"]) if message["type"] == "message" else ANYTHING
                    for inbox in self._waiting.get(channel, ()):
                        inbox.put(wake)
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
