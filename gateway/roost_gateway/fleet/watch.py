"""Keeps a gateway's pools and workers up to date: read from the store twice a second."""

import asyncio
import logging
from collections.abc import Callable

from roost.store.interface import SessionStore
from roost.store.records import StoreHealth, StoreUnavailableError
from roost_gateway.fleet.pools import Pools
from roost_gateway.fleet.workers import Workers

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
_DOCUMENT_TICKS = 4


class FleetWatch:
    """Reads pools and workers, and knows whether the store answers."""

    def __init__(self, store: SessionStore, pools: Pools, workers: Workers, on_change: Callable[[str], None]) -> None:
        """`on_change` is called with each pool after every reading."""
        self._store = store
        self._pools = pools
        self._workers = workers
        self._on_change = on_change
        self._loop: asyncio.Task[None] | None = None
        self.store_answers = False
        self.health: StoreHealth | None = None

    @property
    def ready(self) -> bool:
        """Whether the store answers and some worker takes steps."""
        return self.store_answers and self._workers.any_takes_steps

    async def start(self) -> None:
        """Reads everything once, then again and again."""
        await self.read(0)
        self._loop = asyncio.create_task(self._watch(), name="watch workers")

    async def aclose(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def _watch(self) -> None:
        tick = 0
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            tick += 1
            try:
                await self.read(tick)
            except Exception:
                log.exception("reading pools and workers failed; trying again")

    async def read(self, tick: int) -> None:
        """Reads the workers, and the pools' documents with every fourth tick."""
        try:
            if not self.store_answers or tick % _DOCUMENT_TICKS == 0:
                self._workers.forget(await self._pools.read_all())
            await asyncio.gather(*map(self._workers.read, self._pools.names))
            await self._store_came()
        except StoreUnavailableError:
            if self.store_answers:
                log.warning("the session store does not answer; running steps go on")
            self.store_answers = False
        for pool in self._pools.names:
            self._on_change(pool)

    async def _store_came(self) -> None:
        if self.store_answers:
            return
        self.health = await self._store.health()
        self.store_answers = True
        if self._workers.grace:
            log.warning("the session store has just started or come back: workers are waited for")
        for problem in self.health.problems:
            log.warning("the session store is not safe (WeakDurability): %s", problem)
        for unknown in self.health.hidden:
            log.warning("the session store is trusted: %s", unknown)
