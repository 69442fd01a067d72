"""Workers' leases: what a worker publishes, which workers live, and how a worker is asked to drain."""

from collections.abc import Mapping, Sequence

from roost.contract.lease import WorkerLease
from roost.store.keys import PoolKeys
from roost.store.link import RedisLink
from roost.store.scripts import Call

FORGET_MS = 3_600_000
"""A worker whose lease ran out this long ago leaves the pool's set of workers: long after any gateway waited for it."""
_KEEP_SECONDS = 3600
"""How long the drain key outlives the time to drain, so that this time can be seen to have run out."""


async def publish(
    link: RedisLink,
    pool: str,
    lease: WorkerLease,
    ttl_ms: int,
    *,
    changed: Mapping[str, int],
    gone: Sequence[str],
    whole: bool,
) -> tuple[int, bool]:
    """Renews a worker's lease and publishes its residency: as a whole, or what has changed since it last did.

    Returns how many sessions are published now, and whether the worker is asked to drain.
    """
    keys, worker = PoolKeys(pool), lease.worker_id
    call = Call(
        {**_published(keys, worker), "drain": keys.drain(worker)},
        {
            "worker": worker,
            "document": lease.encode(),
            "ttl_ms": ttl_ms,
            "forget_ms": FORGET_MS,
            "whole": int(whole),
            "changed": len(changed),
        },
        more_args=[*(part for pair in changed.items() for part in pair), *gone],
    )
    sessions, drain = await link.script("publish", call)
    return int(sessions), bool(drain)


async def withdraw(link: RedisLink, pool: str, worker_id: str) -> None:
    """Removes a worker's lease and residency."""
    await link.script("withdraw", Call(_published(PoolKeys(pool), worker_id), {"worker": worker_id}))


def _published(keys: PoolKeys, worker_id: str) -> dict[str, str]:
    return {"workers": keys.workers, "lease": keys.lease(worker_id), "residency": keys.residency(worker_id)}


async def live_leases(link: RedisLink, pool: str) -> list[WorkerLease]:
    """Leases in force. They are read one by one: a worker's user of Redis may read no other key in the same script."""
    keys = PoolKeys(pool)
    workers = [name.decode() for name in await link.run("ZRANGE", keys.workers, 0, -1)]
    documents = [await link.run("GET", keys.lease(worker)) for worker in workers]
    return [WorkerLease.decode(document) for document in documents if document]


async def ask_to_drain(link: RedisLink, pool: str, worker_id: str, drain_seconds: float) -> None:
    """Asks a worker to drain for `drain_seconds`, counted from the first time that it was asked."""
    keep_ms = round((drain_seconds + _KEEP_SECONDS) * 1000)
    await link.script("drain", Call({"drain": PoolKeys(pool).drain(worker_id)}, {"keep_ms": keep_ms}))


async def seconds_since_asked_to_drain(link: RedisLink, pool: str, worker_id: str) -> float | None:
    """Seconds since a worker was asked to drain, by the server's clock, or None when it is not to drain."""
    since_ms = await link.run("GET", PoolKeys(pool).drain(worker_id))
    if since_ms is None:
        return None
    seconds, microseconds = await link.run("TIME")
    return max(0.0, int(seconds) + int(microseconds) / 1_000_000 - int(since_ms) / 1000)


async def end_drain(link: RedisLink, pool: str, worker_id: str) -> None:
    """Lets a worker take attempts again."""
    await link.run("DEL", PoolKeys(pool).drain(worker_id))
