"""A Redis Cluster of which a shard is away: pools whose keys lie elsewhere notice nothing of it."""

import asyncio
import itertools
import os
import signal
from collections.abc import Iterator

import pytest

from redis_servers import RedisCluster
from roost.store.grace import Grace
from roost.store.keys import PoolKeys
from roost.store.records import StoreAwayError
from roost.store.redis_store import connect
from roost.store.shards import Shards
from store_driver import LONG_MS

PATIENCE_SECONDS = 15.0
"""Longer than any call to a shard that answers, on a machine that is busy."""


def new_grace() -> Grace:
    return Grace(10.0)


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster({"cluster-require-full-coverage": "no"}) as cluster:
        yield cluster


def pools_on(cluster: RedisCluster, shard: int) -> Iterator[str]:
    """Names of pools whose keys lie on a shard."""
    with cluster.client() as client:
        for pool in (f"test/p{number}" for number in itertools.count()):
            if client.get_node_from_key(PoolKeys(pool).workers).port == cluster.shards[shard].port:
                yield pool


async def test_a_shard_that_is_away_keeps_no_lease_of_another_shards_pools(cluster: RedisCluster) -> None:
    here, away = (next(pools_on(cluster, shard)) for shard in (1, 2))
    store = await connect(cluster.url, grace_ms=LONG_MS)
    try:
        for pool in (here, away):
            await store.workers(pool)
        cluster.shards[2].kill()
        with pytest.raises(StoreAwayError):
            await store.workers(away)
        await store.workers(here)
        assert (store.grace_seconds(here), store.grace_seconds(away)) == (0.0, LONG_MS / 1000)
        cluster.bring_back(2)
        for pool in (here, away):
            await store.workers(pool)
        assert store.grace_seconds(here) == 0.0
        assert 0.0 < store.grace_seconds(away) < LONG_MS / 1000
    finally:
        await store.aclose()


async def test_a_restart_that_no_call_noticed_begins_the_grace_of_all_pools_of_its_shard(cluster: RedisCluster) -> None:
    here, (noticed, quiet) = next(pools_on(cluster, 1)), itertools.islice(pools_on(cluster, 2), 2)
    store = await connect(cluster.url, grace_ms=LONG_MS)
    try:
        for pool in (here, noticed, quiet):
            await store.workers(pool)
        cluster.shards[2].kill()
        cluster.bring_back(2)
        await store.workers(noticed)
        assert store.grace_seconds(here) == 0.0
        assert store.grace_seconds(noticed) > 0.0
        assert store.grace_seconds(quiet) > 0.0, "its scripts are known again, so that nothing else would tell"
    finally:
        await store.aclose()


async def test_a_shard_that_does_not_answer_holds_up_no_call_to_another(cluster: RedisCluster) -> None:
    here, silent = (next(pools_on(cluster, shard)) for shard in (1, 2))
    store = await connect(cluster.url, connections=1, socket_timeout=PATIENCE_SECONDS)
    try:
        for pool in (here, silent):
            await store.workers(pool)
        os.kill(cluster.shards[2].pid, signal.SIGSTOP)
        reading = asyncio.create_task(store.workers(silent))
        await asyncio.sleep(0)
        await store.workers(here)
        assert not reading.done()
        os.kill(cluster.shards[2].pid, signal.SIGCONT)
        await reading
    finally:
        await store.aclose()


def test_keys_of_one_server_share_a_grace_period_and_in_a_cluster_those_of_one_tag() -> None:
    one_server, cluster = (Shards(new_grace, is_cluster=is_cluster) for is_cluster in (False, True))
    for shards in (one_server, cluster):
        shards.of("roost:{a/a}:workers").grace.note_away()
        assert shards.grace_seconds("roost:{a/a}:pool") == 10.0
    assert one_server.grace_seconds("roost:{b/b}:workers") == 10.0
    assert cluster.grace_seconds("roost:{b/b}:workers") == 0.0


def test_all_servers_begin_a_grace_period_also_those_that_are_not_known_yet() -> None:
    shards = Shards(new_grace, is_cluster=True)
    shards.of("roost:{a/a}:workers")
    shards.begin_grace()
    assert all(shards.grace_seconds(f"roost:{{{pool}}}:workers") > 0.0 for pool in ("a/a", "b/b"))


def test_only_another_start_of_a_server_begins_its_grace_period() -> None:
    shards = Shards(new_grace, is_cluster=True)
    for pool, run_id in (("a", "1"), ("b", "1"), ("c", "2"), ("a", "1")):
        shards.note_run_id(f"roost:{{{pool}}}", run_id)
    assert [shards.grace_seconds(f"roost:{{{pool}}}") for pool in "abc"] == [0.0, 0.0, 0.0]
    shards.note_run_id("roost:{a}", "3")
    assert [shards.grace_seconds(f"roost:{{{pool}}}") > 0.0 for pool in "abc"] == [True, True, False]
    assert shards.of("roost:{b}").run_id == "3"
