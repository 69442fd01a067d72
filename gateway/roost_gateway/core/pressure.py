"""How late the event loop is, and how long each stream therefore rests between its deltas.

A message costs the gateway far more than its content. While the loop keeps up, what a worker sends goes on as a delta
of its own. When it falls behind, each stream rests after a delta; the output of that time goes into the next one, and
the time saved goes to the steps that wait for Begin and Commit.
"""

import asyncio
import time

BEAT_SECONDS = 0.02
CALM_SECONDS = 0.004
"""A loop that is no later than this keeps up."""
LONGEST_REST_SECONDS = 0.05
_REST_PER_LAG = 3.0
_MEMORY = 0.7


def rest_seconds(lag: float) -> float:
    """How long a stream rests after a delta when the loop is `lag` seconds late."""
    return 0.0 if lag <= CALM_SECONDS else min(LONGEST_REST_SECONDS, _REST_PER_LAG * lag)


class Pressure:
    """Measures how late the running loop is. `lag` and `rest` are seconds; `rest` is 0 while the loop keeps up."""

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
        """Takes a measurement. A rise of the lag counts at once, a fall gradually."""
        self.lag = max(late, self.lag * _MEMORY)
        self.rest = rest_seconds(self.lag)

    async def _beat(self) -> None:
        while True:
            due = time.monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self.observe(time.monotonic() - due)
