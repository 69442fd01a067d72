"""Fixtures of the SDK's tests."""

from redis_servers import redis_server, shared_redis

__all__ = ["redis_server", "shared_redis"]
