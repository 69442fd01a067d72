"""How a worker stops taking steps, in two phases. Pure.

A worker that is asked to drain first *leaves*: it serves the sessions that it holds, and no others, while a gateway
computes their KV at other workers and moves them there. Then it *drains*: it takes no steps, and finishes those that
run.
"""

from enum import StrEnum

from roost.contract.lease import LEASE_PERIOD_SECONDS

LEAVING_SHARE = 0.5
"""Most of the drain time that leaving takes: the rest is for steps that still run then."""
PATIENCE_SECONDS = 2 * LEASE_PERIOD_SECONDS
"""How long it leaves without a gateway that moves its sessions: gateways look twice a second."""


class Phase(StrEnum):
    SERVING = "serving"
    LEAVING = "leaving"
    DRAINING = "draining"


class Mover(StrEnum):
    """What gateways do about a worker's sessions, as the store says."""

    NONE = "none"
    MOVES = "moves"
    DONE = "done"  # what is still here cannot be moved


class Drain:
    """The phase of one worker. Draining ends only with the request to drain."""

    def __init__(self, drain_seconds: float) -> None:
        self.phase = Phase.SERVING
        self._leaving_seconds = LEAVING_SHARE * drain_seconds
        self._since = self._heard = 0.0
        """When it was asked, and when a gateway was last seen to move its sessions."""

    def advance(self, now: float, *, asked: bool, holds_sessions: bool, mover: Mover) -> Phase:
        """Take what is the case at `now`, in seconds, and return the phase."""
        if not asked:
            self.phase = Phase.SERVING
        elif self.phase is not Phase.DRAINING:
            if self.phase is Phase.SERVING:
                self._since = self._heard = now
            if mover is Mover.MOVES:
                self._heard = now
            self.phase = Phase.LEAVING if holds_sessions and self._may_leave(mover, now) else Phase.DRAINING
        return self.phase

    def leaving_seconds(self, now: float) -> float:
        """Return how much longer it leaves at most."""
        return max(0.0, self._since + self._leaving_seconds - now) if self.phase is Phase.LEAVING else 0.0

    def _may_leave(self, mover: Mover, now: float) -> bool:
        in_time = now - self._since < self._leaving_seconds and now - self._heard < PATIENCE_SECONDS
        return mover is not Mover.DONE and in_time
