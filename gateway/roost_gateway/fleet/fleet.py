"""What a gateway knows of pools and workers, read from the store twice a second, and how it reaches the workers."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

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
        """Whether all that was read last could be read."""
        self._answering = frozenset[str]()
        """Pools whose workers could be read: parts of a cluster may be away, with the pools that lie there."""
        self.health: StoreHealth | None = None
        self._loop: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether some worker takes steps of a pool for which the store answers."""
        return self.workers.any_takes_steps(self._answering)

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
        """Reads the workers, and the pools' documents with every fourth tick. What is away keeps nothing else from
        being read."""
        are_documents_read = await self._read_documents(tick)
        names = self.pools.names
        are_read = await asyncio.gather(*map(self._can_read, names))
        self._answering = frozenset(itertools.compress(names, are_read))
        if not (are_documents_read and all(are_read)):
            self._store_went()
        elif not self.store_answers:
            with suppress(StoreAwayError):
                await self._store_came()
        self.clients.retain(self.workers.addresses)
        for pool in self.pools.names:
            self.on_change(pool)

    async def _read_documents(self, tick: int) -> bool:
        """Reads the pools' documents if it is time. Returns whether none is missing."""
        if self.store_answers and tick % _DOCUMENT_TICKS:
            return True
        try:
            gone, are_read = await self.pools.read_all()
        except StoreAwayError:
            return False
        self.workers.forget(gone)
        return are_read

    async def _can_read(self, pool: str) -> bool:
        """Reads a pool's workers, if the store answers."""
        try:
            await self.workers.read(pool)
        except StoreAwayError:
            return False
        return True

    def _store_went(self) -> None:
        if self.store_answers:
            where = f" for all but {', '.join(sorted(self._answering))}" if self._answering else ""
            log.warning("the session store does not answer%s; running steps go on", where)
        self.store_answers = False

    async def _store_came(self) -> None:
        self.health = await self._store.health()
        self.store_answers = True
        if self.workers.grace:
            log.warning("the session store has just started or come back: workers are waited for")
        for problem in self.health.problems:
            log.warning("the session store is not safe (WeakDurability): %s", problem)
        for unknown in self.health.hidden:
            log.warning("the session store is trusted: %s", unknown)
