from collections.abc import AsyncIterator, Iterator

import pytest

from redis_servers import (
    PATIENCE_SECONDS,
    RedisCluster,
    RedisServer,
    fresh_redis,
    redis_cluster,
    redis_server,
    shared_cluster,
    shared_redis,
)
from roost.store.interface import SessionStore
from roost.store.memory import MemoryStore
from roost.store.redis_store import connect
from store_driver import Raw, new_session

__all__ = ["fresh_redis", "redis_cluster", "redis_server", "shared_cluster", "shared_redis"]


IN_MEMORY_TOO = (
    "test_budgets",
    "test_conversation_index",
    "test_folded_logs",
    "test_detached_steps",
    "test_forks",
    "test_kept_conversations",
    "test_migrate_script",
    "test_moves",
    "test_session_records",
    "test_step_scripts",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test runs on one server and on three shards; those that only call the store, on the store in memory too."""
    if "server" in metafunc.fixturenames:
        called_only = metafunc.module.__name__.endswith(IN_MEMORY_TOO) and "raw" not in metafunc.fixturenames
        metafunc.parametrize("server", ["server", "cluster", *["memory"] * called_only], indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> RedisServer | RedisCluster | MemoryStore:
    """An empty Redis, or the store in memory itself."""
    return MemoryStore() if request.param == "memory" else request.getfixturevalue(f"redis_{request.param}")


@pytest.fixture
def raw(server: RedisServer | RedisCluster) -> Iterator[Raw]:
    with server.client() as client:
        yield client


@pytest.fixture
async def store(server: RedisServer | RedisCluster | MemoryStore) -> AsyncIterator[SessionStore]:
    store = (
        server
        if isinstance(server, MemoryStore)
        else await connect(server.url, socket_timeout=PATIENCE_SECONDS, grace_ms=0)
    )
    yield store
    await store.aclose()


@pytest.fixture
async def other(server: RedisServer | RedisCluster | MemoryStore) -> AsyncIterator[SessionStore]:
    """Another gateway's store."""
    store = (
        server
        if isinstance(server, MemoryStore)
        else await connect(server.url, socket_timeout=PATIENCE_SECONDS, grace_ms=0)
    )
    yield store
    await store.aclose()


@pytest.fixture
async def fresh(fresh_redis):
    store = await connect(fresh_redis.url, socket_timeout=PATIENCE_SECONDS, grace_ms=0)
    yield store
    await store.aclose()


@pytest.fixture
async def session_id(store: SessionStore) -> str:
    """A session without a step."""
    return (await store.open(new_session())).session_id
