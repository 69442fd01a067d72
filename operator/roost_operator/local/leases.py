"""Reads the leases that workers publish in Redis."""

from redis.asyncio import Redis

from roost.contract.lease import WorkerLease
from roost.contract.names import PoolKeys


async def live_leases(client: Redis, pool: str) -> list[WorkerLease]:
    """Valid leases of `pool`, by Redis' clock. `client` must decode responses.

    Raises redis.exceptions.RedisError.
    """
    keys = PoolKeys(pool)
    seconds, microseconds = await client.time()
    now = int(seconds) * 1000 + int(microseconds) // 1000
    workers = await client.zrangebyscore(keys.workers, now, "+inf")
    documents = [await client.get(keys.lease(str(worker))) for worker in workers]
    return [WorkerLease.decode(document) for document in documents if document is not None]
