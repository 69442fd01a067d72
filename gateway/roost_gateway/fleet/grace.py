"""How long workers that the store does not list are waited for after the store came back."""

from roost.contract.lease import LEASE_TTL_SECONDS
from roost.store.grace import GRACE_SECONDS
from roost.store.interface import SessionStore

WAIT_SECONDS = LEASE_TTL_SECONDS
"""Workers publish themselves every second, so a worker that has not after this time does not live."""


class WorkerGrace:
    """The first part of the store's own grace period for a pool, in which no lease expires."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    def left_seconds(self, pool: str) -> float:
        """Return the full period while the part of the store that has the pool is away."""
        return max(0.0, self._store.grace_seconds(pool) - (GRACE_SECONDS - WAIT_SECONDS))

    def is_on(self, pool: str) -> bool:
        return self.left_seconds(pool) > 0
