"""A scripted worker per test, one Redis for all."""

from collections.abc import AsyncIterator

import pytest

from redis_servers import RedisServer, fresh_redis, redis_server, shared_redis
from worker_harness import World, scripted_world, worker_config

__all__ = ["fresh_redis", "redis_server", "shared_redis"]


@pytest.fixture
async def world(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    config = worker_config(redis_server.url, tmp_path_factory.getbasetemp() / "roost-cache")
    async with scripted_world(config) as started:
        yield started
