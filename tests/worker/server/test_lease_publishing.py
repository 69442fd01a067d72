"""Lease and residency in a real Redis: timed by it, republished whenever it may have lost them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_servers import fresh_redis, redis_cluster, redis_server, shared_cluster, shared_redis
from roost.contract.lease import WorkerLease
from roost.store.keys import PoolKeys
from roost.store.link import RedisLink
from roost_worker.server.lease import LeasePublisher, changes
from worker_harness import WAIT

__all__ = ["fresh_redis", "redis_cluster", "redis_server", "shared_cluster", "shared_redis"]
POOL = "default/pool"
KEYS = PoolKeys(POOL)
WORKER = "w-1"
TABLES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3))


def lease(running: int = 0) -> WorkerLease:
    return WorkerLease(WORKER, "boot", "127.0.0.1:1", "m", "rev", 100, 4, running=running)


class Worker:
    """What a publisher reads, changed by the test."""

    def __init__(self, url: str, **options: float):
        self.residency: dict[str, int] = {}
        self.running = 0
        self.publisher = LeasePublisher(
            url, POOL, WORKER, lambda: lease(self.running), lambda: self.residency, **options
        )

    async def __aenter__(self) -> "Worker":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.publisher.aclose()


@contextmanager
def asking(server) -> Iterator[Any]:
    """A client of a server that is running now."""
    client = server.client()
    try:
        yield client
    finally:
        client.close()


def published(server) -> dict[str, int]:
    with asking(server) as client:
        return {name.decode(): int(tokens) for name, tokens in client.hgetall(KEYS.residency(WORKER)).items()}


@given(before=st.none() | TABLES, now=TABLES)
def test_changes_turn_what_was_published_into_what_is(before, now):
    sets, deletes = changes(before, now)
    after = {**(before or {}), **sets}
    for session in deletes:
        del after[session]
    assert after == now


async def test_the_lease_expires_by_the_clock_of_redis(redis_server):
    async with Worker(redis_server.url, ttl=5.0) as worker:
        assert await worker.publisher.publish()
        with asking(redis_server) as client:
            seconds, micros = client.time()
            left = client.zscore(KEYS.workers, WORKER) - (seconds * 1000 + micros // 1000)
            assert 0 < left <= 5000
            assert 0 < client.pttl(KEYS.lease(WORKER)) <= 5000
            assert WorkerLease.decode(client.get(KEYS.lease(WORKER))) == lease()


async def test_a_lease_that_cannot_be_made_now_is_published_the_next_time(redis_server):
    async with Worker(redis_server.url) as worker:
        worker.residency = {"a": 1}
        assert await worker.publisher.publish()
        worker.residency = None
        assert not await worker.publisher.publish()
        worker.residency = {"b": 1}
        assert await worker.publisher.publish()
        assert published(redis_server) == {"b": 1}


async def test_a_worker_that_failed_changes_nothing_that_it_has_published(redis_server):
    async with Worker(redis_server.url) as worker:
        assert await worker.publisher.publish()
        worker.publisher.stop_publishing()
        worker.running = 1
        assert not await worker.publisher.publish()
        with asking(redis_server) as client:
            assert WorkerLease.decode(client.get(KEYS.lease(WORKER))) == lease(0)


async def test_a_publication_that_comes_too_late_is_not_in_force(redis_server, monkeypatch):
    """Its worker may have stalled after it asked for the time; gateways have given it up by then."""
    on_time = RedisLink.now_ms

    async def late(link: RedisLink, key: str) -> int:
        return await on_time(link, key) - 5001

    async with Worker(redis_server.url, ttl=5.0) as worker:
        worker.residency = {"a": 1}
        assert await worker.publisher.publish()
        monkeypatch.setattr(RedisLink, "now_ms", late)
        await worker.publisher.publish()
        with asking(redis_server) as client:
            assert client.exists(KEYS.lease(WORKER), KEYS.residency(WORKER)) == 0


async def test_residency_expires_with_the_lease(redis_server):
    async with Worker(redis_server.url, ttl=5.0) as worker:
        worker.residency = {"a": 1}
        assert await worker.publisher.publish()
        with asking(redis_server) as client:
            assert 0 < client.pttl(KEYS.residency(WORKER)) <= 5000


async def test_leases_of_workers_long_dead_are_swept(redis_server):
    with asking(redis_server) as client:
        client.zadd(KEYS.workers, {"long-dead": 1})
    async with Worker(redis_server.url) as worker:
        assert await worker.publisher.publish()
        with asking(redis_server) as client:
            assert client.zrange(KEYS.workers, 0, -1) == [WORKER.encode()]


async def test_residency_follows_by_differences(redis_server):
    async with Worker(redis_server.url) as worker:
        for residency in ({"a": 1, "b": 2}, {"b": 3, "c": 1}, {"c": 1}, {}):
            worker.residency = residency
            assert await worker.publisher.publish()
            assert published(redis_server) == residency


async def test_many_sessions_fit_in_one_publication(redis_server):
    async with Worker(redis_server.url) as worker:
        worker.residency = {f"s{number}": number for number in range(20000)}
        assert await worker.publisher.publish()
        assert published(redis_server) == worker.residency


async def test_flushed_content_is_published_again(redis_server):
    async with Worker(redis_server.url) as worker:
        worker.residency = {"a": 1, "b": 2}
        await worker.publisher.publish()
        await worker.publisher.publish()  # the first one also made the connection
        with asking(redis_server) as client:
            client.flushall()
        worker.residency["c"] = 3
        await worker.publisher.publish()
        assert published(redis_server) == {"a": 1, "b": 2, "c": 3}


async def test_the_lease_comes_back_with_redis(fresh_redis):
    async with Worker(fresh_redis.url) as worker:
        worker.residency = {"a": 1}
        assert await worker.publisher.publish()
        fresh_redis.kill()
        assert not await worker.publisher.publish()
        fresh_redis.start()
        assert await worker.publisher.publish()
        assert published(fresh_redis) == {"a": 1}


async def test_a_restart_between_two_periods_is_noticed(fresh_redis):
    """Redis may come back with older content of the same size: a new connection publishes everything."""
    async with Worker(fresh_redis.url) as worker:
        worker.residency = {"a": 1}
        await worker.publisher.publish()
        await worker.publisher.publish()
        fresh_redis.kill()
        fresh_redis.start()
        with asking(fresh_redis) as client:
            client.hset(KEYS.residency(WORKER), mapping={"a": 99})
        await worker.publisher.publish()
        await worker.publisher.publish()
        assert published(fresh_redis) == {"a": 1}


async def test_a_new_connection_publishes_everything(redis_server):
    """It may lead to a server that came back with older content of the same size, unnoticed."""
    async with Worker(redis_server.url) as worker:
        worker.residency = {"a": 1}
        await worker.publisher.publish()
        await worker.publisher.publish()
        with asking(redis_server) as client:
            client.hset(KEYS.residency(WORKER), mapping={"a": 99})
        await worker.publisher._link.client.connection_pool.disconnect()
        await worker.publisher.publish()
        await worker.publisher.publish()
        assert published(redis_server) == {"a": 1}


async def test_a_withdrawn_lease_stays_away(redis_server):
    async with Worker(redis_server.url) as worker:
        worker.residency = {"a": 1}
        await worker.publisher.publish()
        await worker.publisher.withdraw()
        assert not await worker.publisher.publish()
        with asking(redis_server) as client:
            assert client.exists(KEYS.workers, KEYS.lease(WORKER), KEYS.residency(WORKER)) == 0


async def test_the_loop_renews_until_closed(redis_server):
    renewed = asyncio.Event()
    async with Worker(redis_server.url, period=0.01) as worker:

        def third_lease() -> WorkerLease:
            worker.running += 1
            if worker.running == 4:  # three leases are published by then
                renewed.set()
            return lease(worker.running)

        worker.publisher._lease = third_lease
        loop = asyncio.create_task(worker.publisher.run())
        await asyncio.wait_for(renewed.wait(), WAIT)
        await worker.publisher.aclose()
        await loop
    with asking(redis_server) as client:
        assert WorkerLease.decode(client.get(KEYS.lease(WORKER))).running >= 3


async def test_a_cluster_takes_the_lease(redis_cluster):
    async with Worker(redis_cluster.url) as worker:
        worker.residency = {"a": 1}
        assert await worker.publisher.publish()
        assert published(redis_cluster) == {"a": 1}


async def test_a_withdrawal_that_is_given_up_ends_publishing_all_the_same(redis_server):
    """A worker that dies while the store hangs must not come back to life with the store."""
    async with Worker(redis_server.url) as worker:
        async with worker.publisher._lock:  # a publication that waits for the store
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(worker.publisher.withdraw(), 0.01)
        assert not await worker.publisher.publish()
        with asking(redis_server) as client:
            assert client.exists(KEYS.lease(WORKER)) == 0
