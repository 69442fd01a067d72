from collections.abc import AsyncIterator, Iterator

import pytest

from redis_servers import (
    RedisCluster,
    RedisServer,
    fresh_redis,
    redis_cluster,
    redis_server,
    shared_cluster,
    shared_redis,
)
from roost.store.redis_store import RedisStore, connect
from store_driver import Raw, new_session

__all__ = ["fresh_redis", "redis_cluster", "redis_server", "shared_cluster", "shared_redis"]


@pytest.fixture(params=["server", "cluster"])
def server(request: pytest.FixtureRequest) -> RedisServer | RedisCluster:
    """An empty Redis: each test runs on one server and on three shards."""
    return request.getfixturevalue(f"redis_{request.param}")


@pytest.fixture
def raw(server: RedisServer | RedisCluster) -> Iterator[Raw]:
    with server.client() as client:
        yield client


@pytest.fixture
async def store(server: RedisServer | RedisCluster) -> AsyncIterator[RedisStore]:
    store = await connect(server.url, grace_ms=0)
    yield store
    await store.aclose()


@pytest.fixture
async def other(server: RedisServer | RedisCluster) -> AsyncIterator[RedisStore]:
    """Another gateway's store."""
    store = await connect(server.url, grace_ms=0)
    yield store
    await store.aclose()


@pytest.fixture
async def fresh(fresh_redis):
    store = await connect(fresh_redis.url, grace_ms=0)
    yield store
    await store.aclose()


@pytest.fixture
async def session_id(store: RedisStore) -> str:
    """A session without a step."""
    return (await store.open(new_session())).session_id
