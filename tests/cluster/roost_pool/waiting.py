"""Waits on conditions, each with an end."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

POLL_SECONDS = 0.25
Found = TypeVar("Found")


async def until(what: str, look: Callable[[], Awaitable[Found]], seconds: float) -> Found:
    """Looks until it sees something true, and returns it. Raises AssertionError naming `what` and what was seen."""
    end = time.monotonic() + seconds
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}; seen last: {found!r}"
        await asyncio.sleep(POLL_SECONDS)
