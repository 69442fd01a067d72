"""What a gateway knows of pools and workers, read from the store again and again, and how it reaches the workers."""

import asyncio
import itertools
import logging
import time
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
SEARCH_SECONDS = 0.1
"""The same while a new gateway has no worker that takes steps: callers wait for the first one."""
LONGEST_SEARCH_SECONDS = 60.0
"""Then it reads no faster than others: its pools may be suspended, or their workers may take long."""
_LATE_SECONDS = 1.0
"""How long a reading waits for one part of the store; a part that is away may take several tries of 2 s each."""
_DOCUMENT_TICKS = 4


def pause_seconds(age: float, *, searches: bool) -> float:
    """Return the time until the next reading. `age`: seconds since the first; `searches`: the store answers, but no
    worker takes steps."""
    return SEARCH_SECONDS if searches and age < LONGEST_SEARCH_SECONDS else WATCH_SECONDS


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
        self._documents: asyncio.Task[tuple[set[str], bool]] | None = None
        """Reads the pools' documents, perhaps since an earlier tick."""
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
        running = [task for task in (self._loop, self._documents) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self.workers.aclose()
        await self.clients.aclose()

    async def _watch(self) -> None:
        tick, started = 0, time.monotonic()
        while True:
            searches = self.store_answers and not self.ready
            await asyncio.sleep(pause_seconds(time.monotonic() - started, searches=searches))
            tick += 1
            try:
                await self.read(tick)
            except Exception:
                log.exception("reading pools and workers failed; trying again")

    async def read(self, tick: int) -> None:
        """Reads the workers, and the pools' documents with every fourth tick. A part of the store that is away neither
        prevents nor delays for long what is read of the others."""
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
        """Reads the pools' documents if it is time. Returns whether all could be read; while that takes long, whether
        the last reading succeeded."""
        if self._documents is None:
            if self.store_answers and tick % _DOCUMENT_TICKS:
                return True
            self._documents = asyncio.create_task(self.pools.read_all(), name="read pools")
        # The first reading is waited for to its end: without any document there is no pool to read workers of.
        await asyncio.wait([self._documents], timeout=_LATE_SECONDS if self.pools.names else None)
        if not self._documents.done():
            return self.store_answers
        reading, self._documents = self._documents, None
        try:
            gone, are_read = reading.result()
        except StoreAwayError:
            return False
        self.workers.forget(gone)
        return are_read

    async def _can_read(self, pool: str) -> bool:
        """Reads a pool's workers. Returns whether the store answers; while that takes long, whether it did before."""
        try:
            async with asyncio.timeout(_LATE_SECONDS):
                return await self.workers.refresh(pool)
        except TimeoutError:
            return pool in self._answering

    def _store_went(self) -> None:
        if self.store_answers:
            if self._answering:
                pools = ", ".join(sorted(self._answering))
                log.warning("a part of the session store does not answer; pools that go on being served: %s", pools)
            else:
                log.warning("the session store does not answer; running steps go on")
        self.store_answers = False

    async def _store_came(self) -> None:
        self.health = await self._store.health()
        self.store_answers = True
        if any(map(self.workers.grace.is_on, self.pools.names)):
            log.warning("the session store has just started or come back: workers are waited for")
        for problem in self.health.problems:
            log.warning("the session store is not safe (WeakDurability): %s", problem)
        for unknown in self.health.hidden:
            log.warning("the session store is trusted: %s", unknown)
