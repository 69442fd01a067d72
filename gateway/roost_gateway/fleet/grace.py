"""How long workers that the store does not list are waited for after the store came back."""

from roost.contract.lease import LEASE_TTL_SECONDS
from roost.store.grace import GRACE_SECONDS
from roost.store.interface import SessionStore

WAIT_SECONDS = LEASE_TTL_SECONDS
"""Workers publish themselves every second, so a worker that has not after this time does not live."""


class Grace:
    """The first part of the store's own time of grace, in which no lease expires."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    @property
    def left_seconds(self) -> float:
        """All of it while the store is away."""
        return max(0.0, self._store.grace_seconds - (GRACE_SECONDS - WAIT_SECONDS))

    def __bool__(self) -> bool:
        return self.left_seconds > 0
