"""The attempts that this gateway keeps alive: renewed together, once a period, for each pool."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from roost.contract.heads import AttemptRef
from roost.contract.lease import LEASE_PERIOD_SECONDS, LEASE_TTL_SECONDS
from roost.store.interface import SessionStore
from roost.store.records import RenewItem, StoreUnavailableError

log = logging.getLogger(__name__)

LEASE_MS = int(LEASE_TTL_SECONDS * 1000)


@dataclass(slots=True, eq=False)
class HeldAttempt:
    """One live attempt of this gateway."""

    pool: str
    session_id: str
    ref: AttemptRef
    task: "asyncio.Task[object]"
    """Runs the step; cancelled when the attempt is found fenced."""
    committing: bool = False
    """From here on only Commit itself can tell whether the attempt is fenced."""
    fenced: bool = False


class Attempts:
    """Renews leases, reservations and places among the waiters of all held attempts."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._held: set[HeldAttempt] = set()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._renew_forever(), name="renew attempts")

    async def aclose(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._held)

    @contextmanager
    def hold(self, pool: str, session_id: str, ref: AttemptRef) -> Iterator[HeldAttempt]:
        """Keeps an attempt alive while the calling task is inside."""
        task = asyncio.current_task()
        assert task is not None, "attempts are held by tasks"
        held = HeldAttempt(pool, session_id, ref, task)
        self._held.add(held)
        try:
            yield held
        finally:
            self._held.discard(held)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(LEASE_PERIOD_SECONDS)
            by_pool: dict[str, list[HeldAttempt]] = defaultdict(list)
            for held in self._held:
                by_pool[held.pool].append(held)
            for pool, batch in by_pool.items():
                await self._renew(pool, batch)

    async def _renew(self, pool: str, batch: list[HeldAttempt]) -> None:
        items = [RenewItem(held.session_id, held.ref) for held in batch]
        try:
            alive = await self._store.renew(pool, items, LEASE_MS)
        except StoreUnavailableError:
            return  # expiry is liveness, never safety: the attempts may still commit
        except Exception:
            log.exception("renewing %d attempts of %s failed; trying again", len(batch), pool)
            return
        for held, live in zip(batch, alive, strict=True):
            if not live and held in self._held and not held.committing:
                held.fenced = True
                held.task.cancel()
