"""Waits on conditions, each with an end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sized
from typing import TypeVar

POLL_SECONDS = 0.25
Seen = TypeVar("Seen")


async def until(what: str, look: Callable[[], Awaitable[Seen]], seconds: float) -> Seen:
    """Looks until it sees something true, and returns it. Raises AssertionError naming `what` and what was seen."""
    end = time.monotonic() + seconds
    while True:
        seen = await look()
        if seen:
            return seen
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}; seen last: {seen!r}"
        await asyncio.sleep(POLL_SECONDS)


async def until_none(what: str, look: Callable[[], Awaitable[Sized]], seconds: float) -> None:
    """Looks until nothing is left. Raises AssertionError naming `what` and what is left."""
    end = time.monotonic() + seconds
    while left := await look():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}; there still are: {left!r}"
        await asyncio.sleep(POLL_SECONDS)
