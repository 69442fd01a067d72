"""The grace period: after the store came back, no lease expires, since none could be renewed while it was away."""

import time

from roost.contract.lease import LEASE_TTL_SECONDS

GRACE_SECONDS = 2 * LEASE_TTL_SECONDS


class Grace:
    """The grace period of a store, or of one of its servers: `seconds` from its return on."""

    def __init__(self, seconds: float = GRACE_SECONDS) -> None:
        self._seconds = seconds
        self._until = 0.0
        self._away = False

    @property
    def left_seconds(self) -> float:
        """What is left of the period. The full period while the store is away, since the next call may find it back."""
        return self._seconds if self._away else max(0.0, self._until - time.monotonic())

    def note_away(self) -> None:
        """The store did not answer."""
        self._away = True

    def note_answer(self) -> None:
        """The store answered; begins the grace period if it was away."""
        if self._away:
            self.begin()

    def begin(self) -> None:
        self._away, self._until = False, time.monotonic() + self._seconds
