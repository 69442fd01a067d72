"""The connection to Redis: one server or a cluster, bounded retries, and what to do when it comes back.

Every client of the store is made here. Workers use this module, so it does without msgpack.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as NoConnectionError
from redis.exceptions import TimeoutError as NoReplyError

from roost.contract.reasons import Reason
from roost.store.grace import GRACE_SECONDS, Grace
from roost.store.records import StoreAwayError
from roost.store.refusals import refused
from roost.store.script_runners import ScriptRunner, SharedScriptRunner
from roost.store.scripts import Arg, Call, script
from roost.store.shards import Shards

RETRIES = 3
_BACKOFF = ExponentialWithJitterBackoff(cap=0.2, base=0.02)
# Newer servers' errors are classes of their own; Redis 6.2 wraps what a command within a script was answered in text.
_AWAY_ERRORS = (ClusterDownError, TryAgainError)
_AWAY_WORDS = ("LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN")
_NO_WRITES = {
    "READONLY": "it is a read-only replica; give the store URL of the primary",
    "NOREPLICAS": "fewer replicas are connected than min-replicas-to-write; bring them back",
    "MISCONF": "it cannot write to its disk; make room there",
}
"""Why Redis answers, but takes no writes, with the fix."""
LONG_REPLIES = frozenset({"detached_read", "get", "read", "residents"})
"""Scripts whose reply may be megabytes: on a shared connection it would hold up those behind it."""
Client = Redis | RedisCluster
Command = Sequence[Arg]
"""A command of Redis and its arguments."""


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Raise CancelledError at the end of the block when the task was cancelled within, however the block ends.

    redis-py sends a command under `asyncio.wait_for`, which on Python 3.11 gives its result, or its error, instead of
    the cancellation when both come in one turn of the event loop (CPython issue 86296, mended in 3.12). A step whose
    client has gone would run on to its end.
    """
    task = asyncio.current_task()
    requested = task.cancelling() if task is not None else 0
    try:
        yield
    finally:
        if task is not None and task.cancelling() > requested:
            raise asyncio.CancelledError


def open_client(
    url: str, *, socket_timeout: float, connections: int, on_connect: Callable[[], None] | None = None
) -> Client:
    """A client for `redis://`, `rediss://` or `unix://`; for a cluster when the query says `cluster=true`.

    `on_connect` is called with each new connection to a single server. Raises ValueError for another URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"store URL {masked(url)!r}: use redis://, rediss:// or unix://")
    query = dict(parse_qsl(parts.query))
    cluster = query.pop("cluster", "false").lower() in ("true", "yes", "1")
    plain = urlunsplit(parts._replace(query=urlencode(query)))
    if plain.startswith("unix:/") and not plain.startswith("unix://"):
        plain = plain.replace("unix:", "unix://", 1)
    common: dict[str, Any] = {
        "retry": Retry(_BACKOFF, RETRIES),
        "socket_timeout": socket_timeout,
        "socket_connect_timeout": socket_timeout,
        "max_connections": connections + 1000,  # `RedisLink` bounds the calls; subscriptions come on top
    }
    if cluster and parts.scheme == "unix":
        raise ValueError(f"store URL {masked(url)!r}: a cluster is reached by redis:// or rediss://")
    if cluster:
        return RedisCluster.from_url(plain, **common)

    async def connected(connection: AbstractConnection) -> None:
        await connection.on_connect()
        assert on_connect is not None
        on_connect()

    if on_connect is not None:
        common["redis_connect_func"] = connected
    return Redis.from_url(plain, **common)


def masked(url: str) -> str:
    """The URL without its password, for messages."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.split(':')[0]}:***{at}{host}" if at else host))


class ForbiddenError(StoreAwayError):
    """Redis answers, but not to this user, or not this command."""


class WritesRefusedError(StoreAwayError):
    """Redis answers, but takes no writes. The text says why."""


def _translate(error: Exception, url: str) -> Exception:
    """The error that a caller of the store gets for one of the client library; the same error when it is a bug."""
    text = str(error)
    if isinstance(error, AuthenticationError | NoPermissionError):
        return ForbiddenError(f"Redis at {url} refuses: {text}; check the store URL and the user's ACL")
    if isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and "OOM" in text):
        return refused(Reason.STORE_FULL)
    why = _why_no_writes(error)
    if why:
        return WritesRefusedError(f"Redis at {url} refuses to write: {why} ({text})")
    away = isinstance(error, _AWAY_ERRORS) or any(word in text for word in _AWAY_WORDS)
    if isinstance(error, ResponseError) and not away:
        return error
    return StoreAwayError(f"Redis at {url} does not answer: {type(error).__name__}: {text}")


def _key(command: Command) -> str:
    """The key of a command, which is its first argument; empty without one."""
    key = command[1] if len(command) > 1 else ""
    return key.decode() if isinstance(key, bytes) else str(key)


def _why_no_writes(error: Exception) -> str:
    if isinstance(error, ReadOnlyError):  # its text lacks the word
        return _NO_WRITES["READONLY"]
    if not isinstance(error, ResponseError):
        return ""
    return next((why for word, why in _NO_WRITES.items() if word in str(error)), "")


class RedisLink:
    """Calls to one Redis, or to a cluster: to each server at most `connections` at a time, so that one which does not
    answer does not hold up calls to the others.

    When Redis was away or has restarted, leases in it have run out although their holders live: until the grace period
    is over nobody may expire them (`shards`). Redis was away when a call failed after all retries; it has restarted, or
    another server has taken over, when a script is not loaded and the server's `run_id` has changed.
    """

    def __init__(
        self,
        client: Client,
        url: str,
        *,
        connections: int,
        grace: Grace | None = None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """`grace`: the caller's clock of the whole store, in place of one for each pool of a cluster."""
        self.client = client
        self.url = masked(url)
        self.shards = Shards(lambda: grace or Grace(grace_seconds), is_cluster=isinstance(client, RedisCluster))
        self._slots: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(connections))
        """By the server's name; without a cluster it is empty."""
        self._unshared = ScriptRunner(client)
        self.script_runner = self._unshared if isinstance(client, RedisCluster) else SharedScriptRunner(client)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        socket_timeout: float = 2.0,
        connections: int = 8,
        grace: Grace | None = None,
        grace_seconds: float = GRACE_SECONDS,
        on_connect: Callable[[], None] | None = None,
    ) -> Self:
        """A link with a client of its own, which connects at the first call; see `open_client` and `RedisLink`."""
        client = open_client(url, socket_timeout=socket_timeout, connections=connections, on_connect=on_connect)
        return cls(client, url, connections=connections, grace=grace, grace_seconds=grace_seconds)

    async def script(self, name: str, call: Call) -> Any:
        """Runs a script, and gives it what is left of the grace period."""
        wanted = script(name)
        runner = self._unshared if name in LONG_REPLIES else self.script_runner
        key = call.key
        async with self._call(key):
            keys, args = wanted.arguments(call, self._grace_ms(key))
            try:
                reply = await runner.evalsha(wanted.sha, len(keys), *keys, *args)
            except NoScriptError:
                await self._read_run_id(key)
                keys, args = wanted.arguments(call, self._grace_ms(key))
                await self._load(wanted.source, key)
                reply = await runner.eval(wanted.source, len(keys), *keys, *args)
            if not self.shards.of(key).run_id:
                await self._read_run_id(key)
            return reply

    def _grace_ms(self, key: str) -> int:
        return round(self.shards.grace_seconds(key) * 1000)

    async def _read_run_id(self, key: str) -> None:
        self.shards.note_run_id(key, str((await self._info(key))["run_id"]))

    async def _load(self, source: str, key: str) -> None:
        """Make the server of `key` keep a script until it ends.

        Newer servers forget scripts that came by EVAL alone. Redis 6.2 does not, and would know a script that was
        loaded also after a restart, which could then go unnoticed.
        """
        if int(str((await self._info(key))["redis_version"]).partition(".")[0]) >= 7:
            await self.client.execute_command("SCRIPT LOAD", source, **await self._server_of(key))

    async def _info(self, key: str) -> dict[str, Any]:
        info: dict[str, Any] = await self.client.execute_command("INFO", "server", **await self._server_of(key))
        return info

    async def _server_of(self, key: str) -> dict[str, Any]:
        """The client's options that send a command to the server that has `key`."""
        if not isinstance(self.client, RedisCluster):
            return {}
        await self.client.initialize()
        return {"target_nodes": self.client.get_node_from_key(key)}

    async def run(self, *command: Arg, **options: Any) -> Any:
        """Runs a plain command, whose first argument is its key, if it has one; `options` are the client's own."""
        async with self._call(_key(command), **options):
            return await self.client.execute_command(*command, **options)

    async def transaction(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands as one transaction (MULTI, EXEC), all on keys of one hash tag, and return their replies.

        A command that Redis refuses to queue, for example for want of memory, ends it before anything is written.
        """
        async with self._call(_key(commands[0])), self.client.pipeline(transaction=True) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute()
            return replies

    async def now_ms(self, key: str) -> int:
        """Return the time of the server of `key`, in ms since 1970."""
        async with self._call(key):
            seconds, micros = await self.client.execute_command("TIME", **await self._server_of(key))
            return int(seconds) * 1000 + int(micros) // 1000

    @asynccontextmanager
    async def _call(self, key: str, target_nodes: ClusterNode | None = None) -> AsyncIterator[None]:
        """A call to the server of `key`, or in a cluster to another one."""
        grace = self.shards.of(key).grace
        try:
            with cancellation_kept():
                async with self._slots[target_nodes.name if target_nodes else self._server_name(key)]:
                    yield
        except (NoConnectionError, NoReplyError, RedisClusterException, OSError) as error:
            grace.note_away()
            raise _translate(error, self.url) from error
        except RedisError as error:
            raise _translate(error, self.url) from error
        grace.note_answer()

    def _server_name(self, key: str) -> str:
        """The server of `key`; empty without a cluster, and while the client does not know or looks for it."""
        if not isinstance(self.client, RedisCluster):
            return ""
        try:
            node = self.client.get_node_from_key(key)
        except SlotNotCoveredError:
            return ""
        return "" if node is None else str(node.name)

    async def aclose(self) -> None:
        await self.script_runner.aclose()
        await self.client.aclose()
