"""How far the event loop is behind, and how long a stream rests between its deltas because of it.

Writing a message costs the gateway far more than what is in it. While the loop keeps up, every engine step is a
message of its own; when it falls behind, each stream rests after a delta, what comes meanwhile travels in the next
one, and the time saved goes to the steps that wait for Begin and Commit.
"""

import asyncio
import time

BEAT_SECONDS = 0.02
CALM_SECONDS = 0.004
"""A loop no later than this keeps up."""
LONGEST_REST_SECONDS = 0.05
_REST_PER_LAG = 3.0
_MEMORY = 0.7


def rest_seconds(lag: float) -> float:
    """How long a stream rests when the loop is `lag` seconds late."""
    return 0.0 if lag <= CALM_SECONDS else min(LONGEST_REST_SECONDS, _REST_PER_LAG * lag)


class Pressure:
    """Measures the running loop. `rest` is in seconds, 0 while it keeps up."""

    def __init__(self) -> None:
        self.lag = 0.0
        self.rest = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._beat(), name="measure the loop")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def observe(self, late: float) -> None:
        """Takes one measurement: a rise counts at once, a fall by and by."""
        self.lag = max(late, self.lag * _MEMORY)
        self.rest = rest_seconds(self.lag)

    async def _beat(self) -> None:
        while True:
            due = time.monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self.observe(time.monotonic() - due)
