"""What the operator reads and writes in the session store: pool documents, leases, the word to drain, counts."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import RedisError

from roost.contract.lease import Lease
from roost.contract.names import POOLS, PoolKeys
from roost_gateway.store import health
from roost_gateway.store.link import Client, RedisLink, open_client
from roost_gateway.store.records import StoreUnavailableError
from roost_operator.plan.observed import Store, Worker

CONNECTIONS = 8
KEEP_DRAIN_MS = 3_600_000
AWAY = (RedisError, StoreUnavailableError, OSError, asyncio.TimeoutError)
_BATCH = 500


class PoolStore:
    """One Redis, opened on first use."""

    def __init__(self, url: str, timeout: float = 2.0) -> None:
        """Raises ValueError when the URL is none of Redis."""
        self._client: Client = open_client(url, socket_timeout=timeout, connections=CONNECTIONS)
        self._link = RedisLink(self._client, url, grace_ms=0, connections=CONNECTIONS)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def observe(self, pool: str) -> tuple[Store, tuple[Worker, ...]]:
        """The store and the workers of a pool. A store that does not answer is part of what is seen."""
        try:
            found = await health.check(self._link)
            text = await self._link.run("GET", PoolKeys(pool).document)
            workers = await self._workers(pool)
        except AWAY as error:
            return Store(problem=str(error) or type(error).__name__), ()
        weaknesses = () if found.durable else found.problems
        return Store(weaknesses=tuple(weaknesses), document=_document(text)), workers

    async def publish(self, pool: str, document: Mapping[str, Any]) -> None:
        """Writes the pool's document, then its name. Raises StoreUnavailableError."""
        await self._link.run("SET", PoolKeys(pool).document, json.dumps(document, separators=(",", ":")))
        await self._link.run("SADD", POOLS, pool)

    async def withdraw(self, pool: str) -> None:
        """Removes the pool's name, then its document. Raises StoreUnavailableError."""
        await self._link.run("SREM", POOLS, pool)
        await self._link.run("DEL", PoolKeys(pool).document)

    async def purge(self, pool: str) -> None:
        """Removes every key of the pool. Raises StoreUnavailableError."""
        async for keys in self._keys(f"{PoolKeys(pool).prefix}:*"):
            for key in keys:
                await self._link.run("UNLINK", key)

    async def set_drains(self, pool: str, workers: tuple[Worker, ...], drain: frozenset[str]) -> int:
        """Tells workers to drain, or to go on; returns how many were told something new."""
        keys, now, told = PoolKeys(pool), await self._now(), 0
        for worker in workers:
            wanted = worker.worker_id in drain
            if wanted and worker.drain_seconds is None:
                await self._link.run("SET", keys.drain(worker.worker_id), now, "NX", "PX", KEEP_DRAIN_MS)
            elif not wanted and worker.drain_seconds is not None:
                await self._link.run("DEL", keys.drain(worker.worker_id))
            told += wanted != (worker.drain_seconds is not None)
        return told

    async def sessions(self, pool: str, workers: tuple[Worker, ...]) -> tuple[int, int, int]:
        """Sessions hot, warm and cold. Raises StoreUnavailableError."""
        keys, total, hot = PoolKeys(pool), 0, 0
        async for found in self._keys(f"{keys.prefix}:tenant:*:sessions"):
            for key in found:
                total += int(await self._link.run("ZCARD", key))
        for worker in workers:
            hot += int(await self._link.run("HLEN", keys.residency(worker.worker_id)))
        return min(hot, total), 0, max(0, total - hot)

    async def _workers(self, pool: str) -> tuple[Worker, ...]:
        keys, now = PoolKeys(pool), await self._now()
        names = await self._link.run("ZRANGEBYSCORE", keys.workers, now, "+inf")
        found = [await self._worker(keys, name.decode(), now) for name in names]
        return tuple(sorted((worker for worker in found if worker), key=lambda worker: worker.worker_id))

    async def _worker(self, keys: PoolKeys, name: str, now: int) -> Worker | None:
        text = await self._link.run("GET", keys.lease(name))
        if text is None:
            return None
        lease = Lease.decode(text)
        tokens = await self._link.run("HVALS", keys.residency(name))
        since = await self._link.run("GET", keys.drain(name))
        return Worker(
            worker_id=name,
            address=lease.address.rsplit(":", 1)[0].strip("[]"),
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
        """Keys like `pattern`, in batches; a pool's braces are no part of Redis' patterns."""
        batch: list[bytes] = []
        async for key in self._client.scan_iter(match=pattern, count=_BATCH):
            batch.append(key)
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        yield batch


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PoolStore]:
    """A store for one use."""
    store = PoolStore(url)
    try:
        yield store
    finally:
        await store.aclose()


def _document(text: bytes | None) -> Mapping[str, Any] | None:
    try:
        found = json.loads(text) if text else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
