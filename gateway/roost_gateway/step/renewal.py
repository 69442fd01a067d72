"""Keeps this gateway's attempts alive: their leases, renewed together once a period for each pool."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from roost.contract.lease import LEASE_PERIOD_SECONDS, LEASE_TTL_MS
from roost.store.interface import SessionStore
from roost.store.records import RenewItem, StoreAwayError
from roost_gateway.step.attempt import StepAttempt

log = logging.getLogger(__name__)


class Renewal:
    """Renews leases, reservations and places among the waiters of all live attempts."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._live: set[StepAttempt] = set()
        self._loop: asyncio.Task[None] | None = None
        self._renewing: dict[str, asyncio.Task[None]] = {}
        """By pool, each for itself: in a cluster the server of one pool may not answer while those of others do."""

    async def aclose(self) -> None:
        running = [*self._renewing.values(), *([self._loop] if self._loop is not None else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._live)

    @contextmanager
    def renewing(self, attempt: StepAttempt) -> Iterator[None]:
        """Keeps an attempt alive during the block. When the store says that it was fenced, its task is cancelled."""
        self._live.add(attempt)
        if self._loop is None:
            self._loop = asyncio.create_task(self._renew_forever(), name="renew attempts")
        try:
            yield
        finally:
            self.stop(attempt)

    def stop(self, attempt: StepAttempt) -> None:
        """Renews an attempt no more. One that this gateway ends would seem to have been fenced."""
        self._live.discard(attempt)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(LEASE_PERIOD_SECONDS)
            by_pool: dict[str, list[StepAttempt]] = defaultdict(list)
            for attempt in self._live:
                by_pool[attempt.pool.pool].append(attempt)
            for pool, batch in by_pool.items():
                if pool not in self._renewing:
                    self._begin_renewal(pool, batch)

    def _begin_renewal(self, pool: str, batch: list[StepAttempt]) -> None:
        renewing = asyncio.create_task(self._renew(pool, batch), name=f"renew attempts of {pool}")
        self._renewing[pool] = renewing
        renewing.add_done_callback(lambda _: self._renewing.pop(pool))

    async def _renew(self, pool: str, batch: list[StepAttempt]) -> None:
        items = [RenewItem(attempt.session_id, attempt.ref) for attempt in batch]
        try:
            live = await self._store.renew(pool, items, LEASE_TTL_MS)
            for attempt, lives in zip(batch, live, strict=True):
                if not lives and attempt in self._live and not attempt.committing:
                    attempt.fence()
        except StoreAwayError:
            return  # expiry is liveness, never safety: the attempts may still commit
        except Exception:
            log.exception("renewing %d attempts of %s failed; trying again", len(batch), pool)
