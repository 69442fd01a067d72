"""Workers' leases: what a worker publishes, which workers live, and how a worker is asked to drain.

A worker and its pod's preStop hook use plain commands only, so that their user of Redis needs no right to run scripts.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from roost.contract.lease import WorkerLease
from roost.store.keys import PoolKeys
from roost.store.link import Command, RedisLink

FORGET_MS = 3_600_000
"""A worker whose lease ran out this long ago leaves the pool's set of workers: long after any gateway waited for it."""
_KEEP_SECONDS = 3600
"""How long the drain key outlives the time to drain, so that this time can be seen to have run out."""


class Published(NamedTuple):
    """What the store says to a worker that publishes its lease."""

    sessions: int
    """Sessions that are published now."""
    drain: bool
    """Whether the worker is asked to drain."""
    mover: str | None
    """The gateway that moves the worker's sessions, `MOVES_DONE`, or None."""


async def publish(
    link: RedisLink,
    pool: str,
    lease: WorkerLease,
    ttl_ms: int,
    *,
    changed: Mapping[str, int],
    gone: Sequence[str],
    whole: bool,
) -> Published:
    """Renew a worker's lease and publish its residency: as a whole, or what has changed since it was last published."""
    keys, worker = PoolKeys(pool), lease.worker_id
    residency, now = keys.residency(worker), await link.now_ms(keys.workers)
    # Absolute times: a publication that is delayed on its way must not outlive what it says in the set of workers.
    end = now + ttl_ms
    commands: list[Command] = [
        ("ZADD", keys.workers, end, worker),
        ("ZREMRANGEBYSCORE", keys.workers, "-inf", now - FORGET_MS),
        ("SET", keys.lease(worker), lease.encode(), "PXAT", end),
    ]
    if whole:
        commands.append(("DEL", residency))
    if changed:
        commands.append(("HSET", residency, *(part for pair in changed.items() for part in pair)))
    if gone:
        commands.append(("HDEL", residency, *gone))
    commands += [
        ("PEXPIREAT", residency, end),
        ("HLEN", residency),
        ("EXISTS", keys.drain(worker)),
        ("GET", keys.mover(worker)),
    ]
    *_, sessions, drain, mover = await link.transaction(commands)
    return Published(int(sessions), bool(drain), mover.decode() if mover else None)


async def withdraw(link: RedisLink, pool: str, worker_id: str) -> None:
    """Remove a worker's lease and residency."""
    keys = PoolKeys(pool)
    await link.transaction(
        [("ZREM", keys.workers, worker_id), ("DEL", keys.lease(worker_id), keys.residency(worker_id))]
    )


async def live_leases(link: RedisLink, pool: str) -> list[WorkerLease]:
    """Return the leases in force."""
    keys = PoolKeys(pool)
    workers = [name.decode() for name in await link.run("ZRANGE", keys.workers, 0, -1)]
    documents = [await link.run("GET", keys.lease(worker)) for worker in workers]
    return [WorkerLease.decode(document) for document in documents if document]


async def ask_to_drain(link: RedisLink, pool: str, worker_id: str, drain_seconds: float) -> None:
    """Ask a worker to drain for `drain_seconds`, counted from the first time that it was asked."""
    key, keep_ms = PoolKeys(pool).drain(worker_id), round((drain_seconds + _KEEP_SECONDS) * 1000)
    await link.run("SET", key, await link.now_ms(key), "NX", "PX", keep_ms)


async def seconds_since_asked_to_drain(link: RedisLink, pool: str, worker_id: str) -> float | None:
    """Return the seconds since a worker was asked to drain, by the server's clock, or None when it is not to drain."""
    key = PoolKeys(pool).drain(worker_id)
    since_ms = await link.run("GET", key)
    return None if since_ms is None else max(0, await link.now_ms(key) - int(since_ms)) / 1000


async def end_drain(link: RedisLink, pool: str, worker_id: str) -> None:
    """Let a worker take attempts again."""
    await link.run("DEL", PoolKeys(pool).drain(worker_id))
