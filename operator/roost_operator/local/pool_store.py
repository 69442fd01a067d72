"""What the stack writes to its Redis and reads there."""

from typing import Self

from roost.contract.lease import WorkerLease
from roost.contract.refused import Refused
from roost.store.keys import POOLS, PoolKeys
from roost.store.leases import live_leases
from roost.store.link import RedisLink
from roost.store.records import StoreAwayError
from roost_operator.api.pool_document import pool_document
from roost_operator.api.spec import AgentPool


class PublishError(RuntimeError):
    """Redis did not take the pool's document; the text says why."""


class PoolStore:
    """One pool in Redis."""

    def __init__(self, link: RedisLink, pool: AgentPool) -> None:
        self._link, self._pool = link, pool

    @classmethod
    def open(cls, url: str, pool: AgentPool) -> Self:
        """A connection of its own, which is made at the first call."""
        return cls(RedisLink.open(url, socket_timeout=5.0), pool)

    async def publish(self, revision: str) -> None:
        """Publish the pool's document, and forget the workers of an earlier run, none of which can be alive.

        The lease of a worker of this run that was faster is back with its next renewal. Raises PublishError.
        """
        keys = PoolKeys(self._pool.pool)
        try:
            await self._link.run("DEL", keys.workers)
            await self._link.run("SET", keys.document, pool_document(self._pool, revision).encode())
            await self._link.run("SADD", POOLS, self._pool.pool)
        except (StoreAwayError, Refused) as error:
            raise PublishError(str(error)) from error

    async def leases(self) -> list[WorkerLease]:
        """Leases of the workers that live now; empty while Redis is away."""
        try:
            return await live_leases(self._link, self._pool.pool)
        except StoreAwayError:
            return []

    async def aclose(self) -> None:
        await self._link.aclose()
