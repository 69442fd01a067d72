"""What a gateway knows of pools and workers, read from the store twice a second, and how it reaches the workers."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from roost.store.interface import SessionStore
from roost.store.records import StoreAwayError
from roost.store.store_health import StoreHealth
from roost_gateway.fleet.pools import Pools
from roost_gateway.fleet.worker_client import WorkerClients
from roost_gateway.fleet.workers import Workers

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
_DOCUMENT_TICKS = 4


class Fleet:
    """Pools, their workers, and the channels to these."""

    def __init__(self, store: SessionStore, pools: Sequence[str], secrets: Mapping[str, str]) -> None:
        """`pools` are the pools to serve; empty means all in the store. `secrets` maps pools to secrets."""
        self._store = store
        self.pools = Pools(store, pools)
        self.workers = Workers(store)
        self.clients = WorkerClients(secrets)
        self.on_change: Callable[[str], None] = lambda pool: None
        """Called with each pool after every reading."""
        self.store_answers = False
        self.health: StoreHealth | None = None
        self._loop: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether the store answers and some worker takes steps."""
        return self.store_answers and self.workers.any_takes_steps

    async def start(self) -> None:
        """Reads everything once, then again and again."""
        await self.read(0)
        self._loop = asyncio.create_task(self._watch(), name="watch workers")

    async def aclose(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self.workers.aclose()
        await self.clients.aclose()

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
                self.workers.forget(await self.pools.read_all())
            await asyncio.gather(*map(self.workers.read, self.pools.names))
            await self._store_came()
        except StoreAwayError:
            if self.store_answers:
                log.warning("the session store does not answer; running steps go on")
            self.store_answers = False
        self.clients.retain(self.workers.addresses)
        for pool in self.pools.names:
            self.on_change(pool)

    async def _store_came(self) -> None:
        if self.store_answers:
            return
        self.health = await self._store.health()
        self.store_answers = True
        if self.workers.grace:
            log.warning("the session store has just started or come back: workers are waited for")
        for problem in self.health.problems:
            log.warning("the session store is not safe (WeakDurability): %s", problem)
        for unknown in self.health.hidden:
            log.warning("the session store is trusted: %s", unknown)
