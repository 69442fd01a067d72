"""How scripts go to Redis: each on a connection for itself, or, with a fraction of the CPU, on one that they share."""

from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer

from roost.store.scripts import Arg
from roost.store.shared_connection import SharedConnection

LONG_BYTES = 65_536
"""A longer command goes on a connection for itself, so that short ones do not wait until it is transferred."""
_pack: Callable[..., list[bytes]] = HiredisRespSerializer().pack


class ScriptRunner:
    """Runs scripts as redis-py does, each on a connection of the client's for itself."""

    def __init__(self, client: Redis | RedisCluster) -> None:
        self._client = client

    async def evalsha(self, sha: str, numkeys: int, *keys_and_args: Arg) -> Any:
        """Runs a script by its hash. Raises NoScriptError of redis-py when the server does not know it."""
        return await self._client.evalsha(sha, numkeys, *keys_and_args)

    async def eval(self, source: str, numkeys: int, *keys_and_args: Arg) -> Any:
        """Runs a script by its source."""
        return await self._client.eval(source, numkeys, *keys_and_args)

    async def aclose(self) -> None:
        """Ends what runs; the client stays open."""


class SharedScriptRunner(ScriptRunner):
    """Runs the scripts of one server on a connection that they share, with the client's login, timeout and retries."""

    def __init__(self, client: Redis) -> None:
        super().__init__(client)
        self._pool, retry = client.connection_pool, client.get_retry()
        assert retry is not None, "`open_client` gives one"
        self._retry: Retry = retry
        self._shared = SharedConnection(self.new_connection, self._pool.connection_kwargs["socket_timeout"])

    def new_connection(self) -> AbstractConnection:
        """A connection as the client's are, but for timeouts and retries, which it leaves to who uses it."""
        unlimited = {"socket_timeout": None, "retry": Retry(NoBackoff(), 0)}
        connection: AbstractConnection = self._pool.connection_class(**{**self._pool.connection_kwargs, **unlimited})
        return connection

    async def evalsha(self, sha: str, numkeys: int, *keys_and_args: Arg) -> Any:
        packed = b"".join(_pack("EVALSHA", sha, numkeys, *keys_and_args))
        if len(packed) > LONG_BYTES:
            return await super().evalsha(sha, numkeys, *keys_and_args)
        return await self._retry.call_with_retry(lambda: self._shared.call(packed), _nothing_to_clean_up)

    async def aclose(self) -> None:
        await self._shared.aclose()


async def _nothing_to_clean_up(_: Exception) -> None:
    """A shared connection has ended already when its calls fail."""
