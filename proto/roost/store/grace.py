"""The time of grace after a store came back, in which no lease may expire: nobody could renew one while it was away."""

import time

from roost.contract.lease import LEASE_TTL_SECONDS

GRACE_SECONDS = 2 * LEASE_TTL_SECONDS


class Grace:
    """One store's clock of grace, of `seconds` from its return on."""

    def __init__(self, seconds: float = GRACE_SECONDS) -> None:
        self._seconds = seconds
        self._until = 0.0
        self._away = False

    @property
    def left_seconds(self) -> float:
        """What is left of it; all of it while the store is away, since the next call may find it back."""
        return self._seconds if self._away else max(0.0, self._until - time.monotonic())

    @property
    def left_ms(self) -> int:
        return round(self.left_seconds * 1000)

    def note_away(self) -> None:
        """The store did not answer."""
        self._away = True

    def note_answer(self) -> None:
        """The store answered; begins the time of grace if it was away."""
        if self._away:
            self.begin()

    def begin(self) -> None:
        self._away, self._until = False, time.monotonic() + self._seconds
