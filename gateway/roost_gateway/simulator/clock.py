"""The virtual clock: what happens when. Pure."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

Action = Callable[[], None]


class Clock:
    """Actions in the order of their times; at the same time, in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the simulation began."""
        self._planned: list[tuple[float, int, Action]] = []
        self._count = count()

    def at(self, time: float, action: Action) -> None:
        """Plan an action. A time that has passed means now."""
        heappush(self._planned, (max(time, self.now), next(self._count), action))

    def step(self) -> bool:
        """Go to the next planned action and do it. Return False when there is nothing planned."""
        if not self._planned:
            return False
        self.now, _, action = heappop(self._planned)
        action()
        return True
