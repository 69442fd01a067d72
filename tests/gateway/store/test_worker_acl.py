"""A worker's Redis user writes leases and residency, reads no log and runs no script."""

from collections.abc import Iterator
from contextlib import asynccontextmanager

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from redis_servers import RedisCluster, RedisServer
from roost.store.keys import WORKER_RULES, PoolKeys
from roost.store.leases import Published, ask_to_drain, end_drain, live_leases
from roost.store.link import RedisLink
from roost.store.redis_store import RedisStore
from roost_worker.server.lease import LeasePublisher
from store_driver import POOL, TENANT, begin_request, commit_request, lease, new_session

KEYS = PoolKeys(POOL)
CLUSTER_RULES = f"{WORKER_RULES} +cluster|slots"


def add_worker(server: RedisServer, rules: str) -> str:
    """Add a worker's user to the server; return its URL."""
    with server.client() as client:
        client.execute_command(f"ACL SETUSER worker on >pw {rules}")
    return server.url.replace("//", "//worker:pw@")


@pytest.fixture
def fresh_cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@asynccontextmanager
async def publishing(url: str, residency: dict[str, int]):
    publisher = LeasePublisher(url, POOL, "w1", lambda: lease("w1"), lambda: residency)
    try:
        yield publisher
    finally:
        await publisher.aclose()


async def begun(store: RedisStore, **fields):
    session_id = (await store.open(new_session())).session_id
    return await store.begin(begin_request(session_id, **fields))


async def test_a_worker_renews_its_lease_and_takes_it_back(fresh: RedisStore, fresh_redis: RedisServer) -> None:
    residency = {"kept": 5, "dropped": 7}
    async with publishing(add_worker(fresh_redis, WORKER_RULES), residency) as publisher:
        assert await publisher.publish()
        assert [view.lease for view in await fresh.workers(POOL)] == [lease("w1")]
        assert await fresh.residency(POOL, ["w1"], ["kept", "dropped"]) == {
            "kept": ("w1", 5, 0),
            "dropped": ("w1", 7, 0),
        }
        with fresh_redis.client() as raw:
            first = raw.zscore(KEYS.workers, "w1")
            residency.update(kept=6)
            del residency["dropped"]
            while raw.zscore(KEYS.workers, "w1") == first:
                assert await publisher.publish()
        assert await fresh.residency(POOL, ["w1"], ["kept", "dropped"]) == {"kept": ("w1", 6, 0)}
        await publisher.withdraw()
        assert await fresh.workers(POOL) == []
        assert await fresh.residency(POOL, ["w1"], ["kept"]) == {}


async def test_a_pods_hook_asks_its_worker_to_drain(fresh_redis: RedisServer) -> None:
    url, asked = add_worker(fresh_redis, WORKER_RULES), list[bool]()

    def take(published: Published) -> None:
        asked.append(published.drain)

    publisher = LeasePublisher(url, POOL, "w1", lambda: lease("w1"), dict, on_published=take)
    link = RedisLink.open(url)
    try:
        await publisher.publish()
        assert [published.worker_id for published in await live_leases(link, POOL)] == ["w1"]
        await ask_to_drain(link, POOL, "w1", 30.0)
        await publisher.publish()
        await end_drain(link, POOL, "w1")
        await publisher.publish()
        assert asked[0] is False
        assert asked[-1] is False
        assert True in asked
    finally:
        await link.aclose()
        await publisher.aclose()


async def test_a_worker_of_a_cluster_renews_its_lease(fresh_cluster: RedisCluster) -> None:
    for shard in fresh_cluster.shards:
        url = add_worker(shard, CLUSTER_RULES) + "?cluster=true"
    async with publishing(url, {"kept": 5}) as publisher:
        assert await publisher.publish()
        with fresh_cluster.client() as raw:
            assert raw.hgetall(KEYS.residency("w1")) == {b"kept": b"5"}
        await publisher.withdraw()
        with fresh_cluster.client() as raw:
            assert not raw.exists(KEYS.lease("w1"))


async def test_a_worker_reads_no_log_and_runs_no_script(fresh: RedisStore, fresh_redis: RedisServer) -> None:
    began = await begun(fresh)
    session_id = began.descriptor.session_id
    await fresh.commit(commit_request(session_id, began.ref, "step-1"))
    with Redis.from_url(add_worker(fresh_redis, WORKER_RULES)) as worker:
        for command in (
            ("HGETALL", KEYS.session(session_id)),
            ("LRANGE", KEYS.log(session_id, 1), 0, -1),
            ("GETRANGE", KEYS.ids(session_id, 1), 0, -1),
            ("HGETALL", KEYS.steps(session_id)),
            ("HSET", KEYS.reservations, "x", "1:1"),
            ("SET", KEYS.document, "{}"),
            ("ZRANGE", KEYS.tenant_sessions(TENANT), 0, -1),
            ("PUBLISH", KEYS.wake, ""),
            ("SCAN", 0),
            ("EVAL", "return 1", 0),
            ("EVAL", "return redis.call('HGETALL', KEYS[1])", 1, KEYS.session(session_id)),
            ("EVALSHA", "0" * 40, 0),
            ("SCRIPT", "LOAD", "return 1"),
        ):
            with pytest.raises(NoPermissionError):
                worker.execute_command(*command)
