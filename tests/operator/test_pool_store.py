"""What the operator reads of sessions: counts that are true, and taken no more often than told."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from redis_servers import RedisCluster, RedisServer
from roost.contract.pool_document import PoolDocument
from roost.store.keys import POOLS, PoolKeys
from roost_operator.kubernetes import pool_store
from roost_operator.kubernetes.pool_store import PoolStore, Stores
from roost_operator.plan.observed import StoreState, Worker

POOL, OTHER = "ns/a", "ns/a.b"
KEYS = PoolKeys(POOL)


@pytest.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[PoolStore]:
    pool_store = PoolStore(redis_server.url)
    yield pool_store
    await pool_store.aclose()


def workers(*names: str) -> tuple[Worker, ...]:
    return tuple(Worker(worker_id=name, address=name, revision="r") for name in names)


def resident(redis: RedisServer, worker: str, *sessions: str) -> None:
    with redis.client() as client:
        client.hset(KEYS.residency(worker), mapping=dict.fromkeys(sessions, 7))


def opened(redis: RedisServer, tenant: str, *sessions: str, pool: str = POOL) -> None:
    with redis.client() as client:
        client.zadd(PoolKeys(pool).tenant_sessions(tenant), dict.fromkeys(sessions, 0))


async def test_hot_is_what_a_live_worker_holds_and_cold_is_the_rest(
    store: PoolStore, redis_server: RedisServer
) -> None:
    opened(redis_server, "t", "s1", "s2", "s3")
    opened(redis_server, "u:sessions", "s4")
    opened(redis_server, "t", "s9", pool=OTHER)
    resident(redis_server, "w1", "s1", "s2")
    resident(redis_server, "w2", "s2", "s4")
    resident(redis_server, "dead", "s3")
    assert await store.sessions(POOL, workers("w1", "w2")) == (3, 0, 1), "s2 is held twice and is one session"
    assert await store.sessions(POOL, ()) == (0, 0, 4)
    assert await store.sessions(OTHER, ()) == (0, 0, 1)
    assert await store.sessions("ns/none", workers("w")) == (0, 0, 0)


async def test_warm_is_what_only_host_memory_has(store: PoolStore, redis_server: RedisServer) -> None:
    opened(redis_server, "t", "s1", "s2", "s3", "s4")
    resident(redis_server, "w1", "s1", "s1:warm", "s2:warm", "s3:warm")
    resident(redis_server, "w2", "s3")
    assert await store.sessions(POOL, workers("w1", "w2")) == (2, 1, 1)


async def test_one_scan_counts_all_pools_for_a_while(
    store: PoolStore, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(redis_server, "t", "s1")
    assert await store.sessions(POOL, ()) == (0, 0, 1)
    opened(redis_server, "t", "s2")
    assert await store.sessions(POOL, ()) == (0, 0, 1)
    monkeypatch.setattr(pool_store, "CENSUS_SECONDS", 0.0)
    assert await store.sessions(POOL, ()) == (0, 0, 2)


async def test_a_document_without_its_name_is_seen(store: PoolStore, redis_server: RedisServer) -> None:
    """As an operator leaves it that was killed between the two."""
    await store.publish(POOL, PoolDocument(POOL, model="m"))
    seen, _ = await store.observe(POOL)
    assert (seen.document, seen.named) == (PoolDocument(POOL, model="m"), False)
    await store.name(POOL)
    assert (await store.observe(POOL))[0].named
    await store.forget(POOL)
    await store.withdraw(POOL)
    with redis_server.client() as client:
        assert (client.smembers(POOLS), client.exists(KEYS.document)) == (set(), 0)


@pytest.mark.parametrize(
    ("text", "version"),
    [('{"pool": "x"}', 0), ('{"schemaVersion": 1}', 1), ('{"schemaVersion": 2}', None), ("[]", None), ("{", None)],
)
async def test_a_document_that_cannot_be_read_counts_as_none(
    store: PoolStore, redis_server: RedisServer, text: str, version: int | None
) -> None:
    with redis_server.client() as client:
        client.set(KEYS.document, text)
    seen, _ = await store.observe(POOL)
    assert (seen.document.schema_version if seen.document else None) == version


async def test_a_worker_is_told_to_drain_since_a_time_and_to_go_on(store: PoolStore, redis_server: RedisServer) -> None:
    await store.set_drain(POOL, "w", 3600)
    with redis_server.client() as client:
        since = client.get(KEYS.drain("w"))
        assert abs(client.time()[0] * 1000 - int(since)) < 60_000
        assert client.ttl(KEYS.drain("w")) > 3600, "the longest time to drain can be seen to have run out"
        await store.set_drain(POOL, "w", 3600)
        assert client.get(KEYS.drain("w")) == since, "told twice, it drains since the first time"
        await store.set_drain(POOL, "w", None)
        assert not client.exists(KEYS.drain("w"))


async def test_a_store_that_comes_back_is_looked_at_anew(fresh_redis: RedisServer) -> None:
    store = PoolStore(fresh_redis.url)
    try:
        assert (await store.observe(POOL))[0].weaknesses == ()
        fresh_redis.kill()
        assert (await store.observe(POOL))[0].problem
        fresh_redis.options["appendfsync"] = "no"
        fresh_redis.start()
        assert "appendfsync" in json.dumps((await store.observe(POOL))[0].weaknesses)
    finally:
        await store.aclose()


@pytest.mark.parametrize("setting", ["appendonly", "appendfsync", "maxmemory-policy"])
async def test_every_setting_that_loses_sessions_is_told(fresh_redis: RedisServer, setting: str) -> None:
    wrong = {"appendonly": "no", "appendfsync": "everysec", "maxmemory-policy": "allkeys-lru"}[setting]
    store = PoolStore(fresh_redis.url)
    try:
        with fresh_redis.client() as client:
            client.config_set(setting, wrong)
        (weakness,) = (await store.observe(POOL))[0].weaknesses
        assert f"{setting} is {wrong!r}" in weakness
    finally:
        await store.aclose()


async def test_a_store_is_young_after_its_start(fresh_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PoolStore(fresh_redis.url)
    try:
        assert (await store.observe(POOL))[0].young
        monkeypatch.setattr(pool_store, "GRACE_SECONDS", 0.0)
        assert not (await store.observe(POOL))[0].young
    finally:
        await store.aclose()


@pytest.mark.parametrize("shared", [True, False])
async def test_a_store_is_young_after_it_was_away(
    fresh_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """Also one that reads its file for long, or that a network hid: its uptime says nothing then."""

    async def uptime(_: object) -> int:
        return 3600

    monkeypatch.setattr(pool_store.health, "uptime", uptime)
    monkeypatch.setattr(pool_store, "GRACE_SECONDS", 0.3)
    stores = Stores(fresh_redis.url if shared else "redis://127.0.0.1:1")

    async def look() -> StoreState:
        async with stores.opened(fresh_redis.url) as store:
            return (await store.observe(POOL))[0]

    try:
        assert not (await look()).young
        fresh_redis.kill()
        assert (await look()).problem
        fresh_redis.start()
        assert (await look()).young
        assert (await look()).young
        await asyncio.sleep(0.3)
        assert not (await look()).young
    finally:
        await stores.aclose()


async def test_the_shared_store_stays_open(redis_server: RedisServer) -> None:
    stores = Stores(redis_server.url)
    async with stores.opened(redis_server.url) as first, stores.opened(redis_server.url) as second:
        assert first is second
    async with stores.opened(redis_server.url + "/0") as other:
        assert other is not first
    await stores.aclose()


async def test_a_worker_of_a_pool_in_a_cluster_is_told_too(redis_cluster: RedisCluster) -> None:
    store = PoolStore(redis_cluster.url)
    try:
        await store.set_drain(POOL, "w", 10)
        with redis_cluster.client() as client:
            assert 10 < client.ttl(KEYS.drain("w")) <= 3610
    finally:
        await store.aclose()
