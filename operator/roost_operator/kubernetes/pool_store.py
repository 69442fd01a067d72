"""What the operator reads and writes in the session store: pool documents, leases, requests to drain, counts."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from redis.exceptions import RedisError

from roost.contract.lease import WorkerLease
from roost.contract.pool_document import PoolDocument
from roost.store import health, leases
from roost.store.grace import GRACE_SECONDS, Grace
from roost.store.keys import POOLS, PoolKeys
from roost.store.link import RedisLink
from roost.store.records import StoreAwayError
from roost.store.residency import WARM_SUFFIX
from roost.store.store_health import StoreHealth
from roost_operator.plan.observed import StoreState, Worker

CONNECTIONS = 8
AWAY = (RedisError, StoreAwayError, OSError, asyncio.TimeoutError)
HEALTH_SECONDS = 10.0
"""How often the store's settings are checked, for all pools in it together."""
CENSUS_SECONDS = 15.0
"""How often sessions are counted, for all pools together: that is a scan of all keys."""
_BATCH = 500
_SESSIONS = re.compile(rb"roost:\{([^}]+)\}:tenant:.*:sessions")


class PoolStore:
    """One Redis with any number of pools, opened on first use."""

    def __init__(self, url: str, timeout: float = 2.0, grace: Grace | None = None) -> None:
        """`grace` is the clock of the store at `url`; its own uptime says nothing of a network that was cut, nor of the
        time in which it reads a long file. Raises ValueError when the URL is not a Redis URL."""
        self._grace = grace or Grace(GRACE_SECONDS)
        self._link = RedisLink.open(url, socket_timeout=timeout, connections=CONNECTIONS, grace=self._grace)
        self._health: tuple[float, StoreHealth] | None = None
        self._census: tuple[float, Mapping[str, int]] | None = None
        self._counting = asyncio.Lock()

    async def aclose(self) -> None:
        await self._link.aclose()

    async def observe(self, pool: str) -> tuple[StoreState, tuple[Worker, ...]]:
        """The store and the workers of a pool. A store that does not answer is a state of the store, not an error."""
        try:
            checked = await self._check()
            text = await self._link.run("GET", PoolKeys(pool).document)
            named = bool(await self._link.run("SISMEMBER", POOLS, pool))
            workers = await self._workers(pool)
            uptime = await health.uptime(self._link)  # last, so that a restart in between shows
        except AWAY as error:
            self._health = None
            self._grace.note_away()
            return StoreState(problem=str(error) or type(error).__name__), ()
        young = uptime < GRACE_SECONDS or self._grace.left_seconds > 0
        document = _document(pool, text)
        return StoreState(weaknesses=checked.problems, document=document, named=named, young=young), workers

    async def publish(self, pool: str, document: PoolDocument) -> None:
        """Writes the pool's document. Raises StoreAwayError."""
        await self._link.run("SET", PoolKeys(pool).document, document.encode())

    async def name(self, pool: str) -> bool:
        """Adds the pool to those that gateways look for; whether it was missing. Raises StoreAwayError."""
        return bool(await self._link.run("SADD", POOLS, pool))

    async def forget(self, pool: str) -> bool:
        """Removes the pool from those that gateways look for; whether it was there. Raises StoreAwayError."""
        return bool(await self._link.run("SREM", POOLS, pool))

    async def withdraw(self, pool: str) -> bool:
        """Removes the pool's document; whether it was there. Raises StoreAwayError."""
        return bool(await self._link.run("DEL", PoolKeys(pool).document))

    async def purge(self, pool: str) -> bool:
        """Removes every key of the pool; whether any was there. Raises StoreAwayError."""
        removed = 0
        async for keys in self._keys(f"{PoolKeys(pool).prefix}:*"):
            for key in keys:
                removed += int(await self._link.run("UNLINK", key))
        return removed > 0

    async def set_drain(self, pool: str, worker: str, seconds: float | None) -> None:
        """Asks a worker to drain for so long, or, with None, lets it go on. Raises StoreAwayError."""
        if seconds is None:
            await leases.end_drain(self._link, pool, worker)
        else:
            await leases.ask_to_drain(self._link, pool, worker, seconds)

    async def sessions(self, pool: str, workers: tuple[Worker, ...]) -> tuple[int, int, int]:
        """Number of sessions that are hot (a live worker publishes that its device has them cached), warm (only in host
        memory) and cold (all others). Raises StoreAwayError."""
        keys, published = PoolKeys(pool), set[str]()
        total = (await self._counted()).get(pool, 0)
        for worker in workers:
            fields = await self._link.run("HKEYS", keys.residency(worker.worker_id))
            published.update(field.decode() for field in fields)
        hot_sessions = {field for field in published if not field.endswith(WARM_SUFFIX)}
        warm_sessions = {field.removesuffix(WARM_SUFFIX) for field in published - hot_sessions} - hot_sessions
        hot = min(len(hot_sessions), total)
        warm = min(len(warm_sessions), total - hot)
        return hot, warm, total - hot - warm

    async def _counted(self) -> Mapping[str, int]:
        """Sessions of every pool."""
        async with self._counting:
            if self._census is None or time.monotonic() - self._census[0] > CENSUS_SECONDS:
                self._census = (time.monotonic(), await self._count())
            return self._census[1]

    async def _count(self) -> Mapping[str, int]:
        counts: dict[str, int] = {}
        async for keys in self._keys("roost:{*}:tenant:*:sessions"):
            for key in keys:
                pool = _SESSIONS.fullmatch(key)
                if pool is not None:
                    name = pool.group(1).decode()
                    counts[name] = counts.get(name, 0) + int(await self._link.run("ZCARD", key))
        return counts

    async def _check(self) -> StoreHealth:
        if self._health is None or time.monotonic() - self._health[0] > HEALTH_SECONDS:
            self._health = (time.monotonic(), await health.check(self._link))
        return self._health[1]

    async def _workers(self, pool: str) -> tuple[Worker, ...]:
        live = await leases.live_leases(self._link, pool)
        return tuple([await self._worker(pool, lease) for lease in sorted(live, key=lambda lease: lease.worker_id)])

    async def _worker(self, pool: str, lease: WorkerLease) -> Worker:
        tokens = await self._link.run("HVALS", PoolKeys(pool).residency(lease.worker_id))
        return Worker(
            worker_id=lease.worker_id,
            address=lease.host,
            revision=lease.model_revision,
            running=lease.running + lease.waiting,
            draining=lease.draining,
            tokens=sum(map(int, tokens)),
            drain_seconds=await leases.seconds_since_asked_to_drain(self._link, pool, lease.worker_id),
            limits=lease.limits,
        )

    async def _keys(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Keys that match `pattern`, in batches. The braces of a pool's tag mean nothing in Redis' patterns."""
        batch: list[bytes] = []
        async for key in self._link.client.scan_iter(match=pattern, count=_BATCH):
            batch.append(key)
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        yield batch


class Stores:
    """The installation's store, which stays open, and stores of single pools, which are opened for one use: their URLs
    come and go with Secrets."""

    def __init__(self, shared_url: str) -> None:
        self._url = shared_url
        self._shared: PoolStore | None = None
        self._graces: dict[str, Grace] = {}
        """Clocks of single pools' stores that were away not long ago."""

    @asynccontextmanager
    async def opened(self, url: str) -> AsyncIterator[PoolStore]:
        """The store at `url`. Raises ValueError when that is not a Redis URL."""
        if url == self._url:
            self._shared = self._shared or PoolStore(url)
            yield self._shared
            return
        grace = self._graces.setdefault(url, Grace(GRACE_SECONDS))
        store = PoolStore(url, grace=grace)
        try:
            yield store
        finally:
            if not grace.left_seconds:
                self._graces.pop(url, None)
            await store.aclose()

    async def aclose(self) -> None:
        if self._shared is not None:
            await self._shared.aclose()
            self._shared = None


def _document(pool: str, text: bytes | None) -> PoolDocument | None:
    """The published document, or None when it is missing or cannot be read, so that it is written again."""
    try:
        return PoolDocument.decode(pool, text) if text else None
    except ValueError:
        return None
