"""Fixtures of the operator's tests."""

from api_server import api_server, namespace
from operator_process import operators
from played_place import place
from redis_servers import fresh_redis, redis_cluster, redis_server, shared_cluster, shared_redis

__all__ = [
    "api_server",
    "fresh_redis",
    "namespace",
    "operators",
    "place",
    "redis_cluster",
    "redis_server",
    "shared_cluster",
    "shared_redis",
]
