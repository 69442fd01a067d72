"""What the operator reads and writes in the session store: pool documents, leases, drains, numbers of sessions."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.exceptions import RedisError

from roost.contract.drain import tell_to_drain
from roost.contract.lease import LEASE_TTL_SECONDS, WorkerLease
from roost.contract.names import POOLS, PoolKeys
from roost.contract.pool_document import PoolDocument
from roost.store import health
from roost.store.link import Client, RedisLink, open_client
from roost.store.records import StoreHealth, StoreUnavailableError
from roost_operator.plan.observed import StoreState, Worker

CONNECTIONS = 8
AWAY = (RedisError, StoreUnavailableError, OSError, asyncio.TimeoutError)
HEALTH_SECONDS = 10.0
"""How often the store's settings are checked, for all pools in it together."""
CENSUS_SECONDS = 15.0
"""How often sessions are counted, for all pools together, since that scans all keys."""
GRACE_SECONDS = 2 * LEASE_TTL_SECONDS
"""How long after a store's return a worker without a lease may still run: it could not renew the lease before."""
_BATCH = 500
_SESSIONS = re.compile(rb"roost:\{([^}]+)\}:tenant:.*:sessions")


@dataclass(slots=True)
class Absence:
    """When a store did not answer. Its uptime shows most of that, but neither a network that was cut, nor the time in
    which the store reads a long file."""

    away: bool = False
    until: float = 0.0
    """End of the time of grace, by the monotonic clock."""

    def seen(self, *, answers: bool) -> None:
        if answers and self.away:
            self.until = time.monotonic() + GRACE_SECONDS
        self.away = not answers

    @property
    def recent(self) -> bool:
        return self.away or time.monotonic() < self.until


class PoolStore:
    """One Redis with any number of pools, opened on first use."""

    def __init__(self, url: str, timeout: float = 2.0, absence: Absence | None = None) -> None:
        """Raises ValueError when it is not a URL of Redis."""
        self._absence = absence or Absence()
        self._client: Client = open_client(url, socket_timeout=timeout, connections=CONNECTIONS)
        self._link = RedisLink(self._client, url, grace_ms=0, connections=CONNECTIONS)
        self._health: tuple[float, StoreHealth] | None = None
        self._census: tuple[float, Mapping[str, int]] | None = None
        self._counting = asyncio.Lock()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def observe(self, pool: str) -> tuple[StoreState, tuple[Worker, ...]]:
        """Return the state of the store and the pool's workers. A store that does not answer is a state, too."""
        try:
            checked = await self._check()
            text = await self._link.run("GET", PoolKeys(pool).document)
            named = bool(await self._link.run("SISMEMBER", POOLS, pool))
            workers = await self._workers(pool)
            uptime = await health.uptime(self._link)  # last, so that a restart in between shows
        except AWAY as error:
            self._health = None
            self._absence.seen(answers=False)
            return StoreState(problem=str(error) or type(error).__name__), ()
        self._absence.seen(answers=True)
        young = uptime < GRACE_SECONDS or self._absence.recent
        return StoreState(
            weaknesses=checked.problems, document=_document(pool, text), named=named, young=young
        ), workers

    async def publish(self, pool: str, document: PoolDocument) -> None:
        """Write the pool's document. Raises StoreUnavailableError."""
        await self._link.run("SET", PoolKeys(pool).document, document.encode())

    async def name(self, pool: str) -> bool:
        """Add the pool to those that gateways look for; return whether it was missing. Raises StoreUnavailableError."""
        return bool(await self._link.run("SADD", POOLS, pool))

    async def forget(self, pool: str) -> bool:
        """Remove the pool from those that gateways look for; return whether it was one. Raises
        StoreUnavailableError."""
        return bool(await self._link.run("SREM", POOLS, pool))

    async def withdraw(self, pool: str) -> bool:
        """Remove the pool's document; return whether it existed. Raises StoreUnavailableError."""
        return bool(await self._link.run("DEL", PoolKeys(pool).document))

    async def purge(self, pool: str) -> bool:
        """Remove all keys of the pool; return whether any existed. Raises StoreUnavailableError."""
        removed = 0
        async for keys in self._keys(f"{PoolKeys(pool).prefix}:*"):
            for key in keys:
                removed += int(await self._link.run("UNLINK", key))
        return removed > 0

    async def set_drain(self, pool: str, worker: str, seconds: float | None) -> None:
        """Have a worker drain for `seconds`, or, with None, go on. Raises StoreUnavailableError."""
        keys = PoolKeys(pool)
        if seconds is None:
            await self._link.run("DEL", keys.drain(worker))
        else:
            await self._link.run(*tell_to_drain(keys, worker, seconds))

    async def sessions(self, pool: str, workers: tuple[Worker, ...]) -> tuple[int, int, int]:
        """Return the numbers of sessions that are hot (resident at a live worker), warm (0 without a warm tier), and
        cold (all others). Raises StoreUnavailableError."""
        keys, resident = PoolKeys(pool), set[bytes]()
        total = (await self._counted()).get(pool, 0)
        for worker in workers:
            resident.update(await self._link.run("HKEYS", keys.residency(worker.worker_id)))
        hot = min(len(resident), total)
        return hot, 0, total - hot

    async def _counted(self) -> Mapping[str, int]:
        """Return the number of sessions of each pool."""
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
        keys, now = PoolKeys(pool), await self._now()
        names = await self._link.run("ZRANGEBYSCORE", keys.workers, now, "+inf")
        workers = [await self._worker(keys, name.decode(), now) for name in names]
        return tuple(sorted((worker for worker in workers if worker), key=lambda worker: worker.worker_id))

    async def _worker(self, keys: PoolKeys, name: str, now: int) -> Worker | None:
        text = await self._link.run("GET", keys.lease(name))
        if text is None:
            return None
        lease = WorkerLease.decode(text)
        tokens = await self._link.run("HVALS", keys.residency(name))
        since = await self._link.run("GET", keys.drain(name))
        return Worker(
            worker_id=name,
            address=lease.host,
            revision=lease.model_revision,
            running=lease.running + lease.waiting,
            draining=lease.draining,
            tokens=sum(int(value) for value in tokens),
            drain_seconds=None if since is None else max(0, now - int(since)) / 1000,
        )

    async def _now(self) -> int:
        seconds, microseconds = await self._link.run("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def _keys(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Iterate over the keys that match `pattern`, in batches; braces have no meaning in Redis' patterns."""
        batch: list[bytes] = []
        async for key in self._client.scan_iter(match=pattern, count=_BATCH):
            batch.append(key)
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        yield batch


class Stores:
    """The installation's store, which is kept open, and stores of single pools, which are opened for each use: their
    URLs come and go with Secrets."""

    def __init__(self, shared_url: str) -> None:
        self._url = shared_url
        self._shared: PoolStore | None = None
        self._absences: dict[str, Absence] = {}
        """Of stores that were away a short time ago, by URL."""

    @asynccontextmanager
    async def opened(self, url: str) -> AsyncIterator[PoolStore]:
        """The store at `url`. Raises ValueError when it is not a URL of Redis."""
        if url == self._url:
            self._shared = self._shared or PoolStore(url)
            yield self._shared
            return
        absence = self._absences.setdefault(url, Absence())
        store = PoolStore(url, absence=absence)
        try:
            yield store
        finally:
            if not absence.recent:
                self._absences.pop(url, None)
            await store.aclose()

    async def aclose(self) -> None:
        if self._shared is not None:
            await self._shared.aclose()
            self._shared = None


def _document(pool: str, text: bytes | None) -> PoolDocument | None:
    """Return the published document, or None when it cannot be read, so that it is written again."""
    try:
        return PoolDocument.decode(pool, text) if text else None
    except ValueError:
        return None
