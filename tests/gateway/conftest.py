from collections.abc import AsyncIterator

import pytest

from gateway_driver import Rig
from http_front import serve
from redis_servers import RedisServer, fresh_redis, redis_server, shared_redis

__all__ = ["fresh_redis", "redis_server", "serve", "shared_redis"]


@pytest.fixture
async def rig(redis_server: RedisServer) -> AsyncIterator[Rig]:
    """A pool over an empty Redis, to start gateways and null workers in."""
    async with Rig(redis_server) as rig:
        yield rig
