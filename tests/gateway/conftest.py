from redis_servers import fresh_redis, redis_server, shared_redis

__all__ = ["fresh_redis", "redis_server", "shared_redis"]
