"""Publishes the worker's lease and residency to Redis, every period, by one script timed by Redis `TIME`."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from roost.contract.lease import LEASE_PERIOD_SECONDS, LEASE_TTL_SECONDS, WorkerLease
from roost.contract.names import PoolKeys

LOG = logging.getLogger(__name__)
_AWAY = (RedisError, OSError, asyncio.TimeoutError)
_FORGET_MS = 3_600_000  # dead workers leave the set long after any gateway could still wait for them

_PUBLISH = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local worker, ttl, full = ARGV[1], tonumber(ARGV[2]), ARGV[4] == '1'
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ttl), worker)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - tonumber(ARGV[5])))
redis.call('SET', KEYS[2], ARGV[3], 'PX', ttl)
if full then redis.call('DEL', KEYS[3]) end
local sets = tonumber(ARGV[6])
for i = 7, 5 + 2 * sets, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
for i = 7 + 2 * sets, #ARGV do redis.call('HDEL', KEYS[3], ARGV[i]) end
redis.call('PEXPIRE', KEYS[3], ttl)
return {redis.call('HLEN', KEYS[3]), redis.call('EXISTS', KEYS[4])}
"""

_WITHDRAW = """
redis.call('ZREM', KEYS[1], ARGV[1])
return redis.call('DEL', KEYS[2], KEYS[3])
"""


def changes(published: Mapping[str, int] | None, now: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """What to set and what to delete so that `published` becomes `now`; None means unknown: set everything."""
    before = published or {}
    return (
        {session: tokens for session, tokens in now.items() if before.get(session) != tokens},
        [session for session in before if session not in now],
    )


class LeasePublisher:
    """Keeps one worker's lease in force. While Redis is away it goes on trying; when Redis comes back, has lost
    what was published, or another connection had to be made, it publishes everything again."""

    def __init__(
        self,
        url: str,
        pool: str,
        worker_id: str,
        lease: Callable[[], WorkerLease],
        residency: Callable[[], Mapping[str, int]],
        *,
        on_drain: Callable[[bool], None] = lambda told: None,
        period: float = LEASE_PERIOD_SECONDS,
        ttl: float = LEASE_TTL_SECONDS,
    ) -> None:
        """`on_drain` is told with each publication whether somebody (the operator) wants the worker to drain."""
        keys = PoolKeys(pool)
        self._on_drain, self._drain_key = on_drain, keys.drain(worker_id)
        self._keys = (keys.workers, keys.lease(worker_id), keys.residency(worker_id))
        self._worker_id, self._lease, self._residency = worker_id, lease, residency
        self._period, self._ttl_ms = period, int(ttl * 1000)
        self._published: dict[str, int] | None = None
        self._told_to_drain = False
        self._reachable = True
        self._lock = asyncio.Lock()
        self._closed = asyncio.Event()
        self._withdrawn = False
        self._redis = self._connect(url)

    async def run(self) -> None:
        """Publishes every period until `aclose`. Not to be cancelled: redis-py swallows a cancellation."""
        while not self._closed.is_set():
            await self.publish()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._period):
                    await self._closed.wait()

    async def publish(self) -> bool:
        """Publishes now. False when Redis did not take it; the next period tries again."""
        async with self._lock:
            if self._withdrawn:
                return False
            try:
                await self._publish()
            except _AWAY as error:
                self._note_away(error)
                return False
        if not self._reachable:
            LOG.info("the store is back; lease and residency are published again")
        self._reachable = True
        return True

    async def withdraw(self) -> None:
        """Removes lease and residency, for good. Does nothing when Redis is away: they then run out by themselves."""
        # At once, and not when the lock is free: who waits for a store that hangs may give up and cancel this.
        self._withdrawn = True
        async with self._lock:
            with suppress(*_AWAY):
                await self._redis.eval(_WITHDRAW, 3, *self._keys, self._worker_id)

    async def aclose(self) -> None:
        """Ends `run` and the connection."""
        self._closed.set()
        async with self._lock:
            self._withdrawn = True
            await self._redis.aclose()

    async def _publish(self) -> None:
        residency, told = dict(self._residency()), self._told_to_drain
        if await self._send(residency) != len(residency) and not self._withdrawn:
            self._published = None
            await self._send(residency)
        if self._told_to_drain != told and not self._withdrawn:  # whoever told it waits for the lease that says so
            await self._send(residency)

    async def _send(self, residency: dict[str, int]) -> int:
        full = self._published is None
        sets, deletes = changes(self._published, residency)
        pairs: list[str | int] = [item for pair in sets.items() for item in pair]
        head: list[str | int] = [
            self._worker_id,
            self._ttl_ms,
            self._lease().encode(),
            int(full),
            _FORGET_MS,
            len(sets),
        ]
        self._published = residency
        keys = (*self._keys, self._drain_key)
        count, told = await self._redis.eval(_PUBLISH, len(keys), *keys, *head, *pairs, *deletes)
        self._told_to_drain = bool(told)
        self._on_drain(self._told_to_drain)
        return int(count)

    def _note_away(self, error: BaseException) -> None:
        self._published = None
        if self._reachable:
            LOG.warning("the store does not answer, the lease will be published when it does: %s", error)
        self._reachable = False

    def _connect(self, url: str) -> "Redis | RedisCluster":
        wait = self._ttl_ms / 2000
        if "cluster=true" in url:
            cluster = url.replace("cluster=true", "")
            return RedisCluster.from_url(cluster, socket_timeout=wait, socket_connect_timeout=wait)
        return Redis.from_url(url, redis_connect_func=self._connected, socket_timeout=wait, socket_connect_timeout=wait)

    async def _connected(self, connection: AbstractConnection) -> None:
        """A new connection may lead to a server that was restarted from an older file."""
        await connection.on_connect()
        self._published = None
