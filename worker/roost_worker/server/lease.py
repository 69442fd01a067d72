"""Publishes the worker's lease and residency to Redis, every period, in one transaction timed by Redis `TIME`."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

from redis.exceptions import RedisError

from roost.contract.lease import LEASE_PERIOD_SECONDS, LEASE_TTL_SECONDS, WorkerLease
from roost.contract.refused import Refused
from roost.store import leases
from roost.store.link import RedisLink
from roost.store.records import StoreAwayError

LOG = logging.getLogger(__name__)
_AWAY = (StoreAwayError, Refused, RedisError)


def changes(published: Mapping[str, int] | None, now: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """What to set and what to delete so that `published` becomes `now`; None means unknown: set everything."""
    before = published or {}
    return (
        {session: tokens for session, tokens in now.items() if before.get(session) != tokens},
        [session for session in before if session not in now],
    )


class LeasePublisher:
    """Keeps one worker's lease in force. While Redis is away it goes on trying; when Redis comes back, has lost what
    was published, or took a new connection, it publishes everything again."""

    def __init__(
        self,
        url: str,
        pool: str,
        worker_id: str,
        lease: Callable[[], WorkerLease],
        residency: Callable[[], Mapping[str, int]],
        *,
        on_published: Callable[[leases.Published], None] = lambda published: None,
        period: float = LEASE_PERIOD_SECONDS,
        ttl: float = LEASE_TTL_SECONDS,
    ) -> None:
        """`on_published` is called after each publication, with what the store says to the worker."""
        self._on_published = on_published
        self._pool, self._worker_id, self._lease, self._residency = pool, worker_id, lease, residency
        self._period, self._ttl_ms = period, int(ttl * 1000)
        self._published: dict[str, int] | None = None
        self._phase_sent = (False, False)
        self._reachable = True
        self._lock = asyncio.Lock()
        self._closed = asyncio.Event()
        self._withdrawn = False
        self._link = RedisLink.open(url, socket_timeout=ttl / 2, on_connect=self._forget)

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
            except Exception:  # an unpublished lease would take the worker's steps away
                LOG.exception("the lease was not published; trying again")
                self._published = None
                return False
        if not self._reachable:
            LOG.info("the store is back; lease and residency are published again")
        self._reachable = True
        return True

    def stop_publishing(self) -> None:
        """Publishes nothing from now on: what is published stays until it expires or is withdrawn."""
        self._withdrawn = True

    async def withdraw(self) -> None:
        """Removes lease and residency; nothing is published afterwards. They expire by themselves if Redis is away."""
        # Before the lock is free: a caller may lose patience with a store that hangs, and cancel this.
        self.stop_publishing()
        async with self._lock:
            with suppress(*_AWAY):
                await leases.withdraw(self._link, self._pool, self._worker_id)

    async def aclose(self) -> None:
        """Ends `run` and the connection."""
        self._closed.set()
        async with self._lock:
            self._withdrawn = True
            await self._link.aclose()

    async def _publish(self) -> None:
        residency = dict(self._residency())
        if await self._send(residency) != len(residency) and not self._withdrawn:
            self._published = None
            await self._send(residency)
        if self._phase_sent != _phase(self._lease()) and not self._withdrawn:
            await self._send(residency)  # whatever asked it to drain waits for a lease that says so

    async def _send(self, residency: dict[str, int]) -> int:
        whole = self._published is None
        changed, gone = changes(self._published, residency)
        self._published, lease = residency, self._lease()
        self._phase_sent = _phase(lease)
        published = await leases.publish(
            self._link, self._pool, lease, self._ttl_ms, changed=changed, gone=gone, whole=whole
        )
        self._on_published(published)
        return published.sessions

    def _note_away(self, error: BaseException) -> None:
        self._published = None
        if self._reachable:
            LOG.warning("the store does not answer, the lease will be published when it does: %s", error)
        self._reachable = False

    def _forget(self) -> None:
        """A new connection may lead to a server that was restarted from an older file."""
        self._published = None


def _phase(lease: WorkerLease) -> tuple[bool, bool]:
    return lease.leaving, lease.draining
