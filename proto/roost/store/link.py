"""The connection to Redis: one server or a cluster, bounded retries, and what to do when it comes back."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio import Redis, RedisCluster
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
    TryAgainError,
)
from redis.exceptions import ConnectionError as NoConnectionError
from redis.exceptions import TimeoutError as NoReplyError

from roost.contract.reasons import Reason
from roost.store.records import StoreUnavailableError
from roost.store.refusals import refused
from roost.store.scripts import script

RETRIES = 3
_BACKOFF = ExponentialWithJitterBackoff(cap=0.2, base=0.02)
# Newer servers' errors are classes of their own; Redis 6.2 wraps what a command within a script was answered in text.
_AWAY_ERRORS = (ClusterDownError, ReadOnlyError, TryAgainError)
_AWAY_WORDS = ("LOADING", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "MISCONF", "NOREPLICAS")
Client = Redis | RedisCluster
Arg = str | bytes | int | float
Request = tuple[Sequence[str], Sequence[Arg]]
"""KEYS and ARGV of a script."""


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


def open_client(url: str, *, socket_timeout: float, connections: int) -> Client:
    """A client for `redis://`, `rediss://` or `unix://`; a cluster's when the query says `cluster=true`.

    Raises ValueError when the URL is none of these.
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
    if not cluster:
        return Redis.from_url(plain, **common)
    if parts.scheme == "unix":
        raise ValueError(f"store URL {masked(url)!r}: a cluster is reached by redis:// or rediss://")
    return RedisCluster.from_url(plain, **common)


def masked(url: str) -> str:
    """The URL without its password, for messages."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.split(':')[0]}:***{at}{host}" if at else host))


class ForbiddenError(StoreUnavailableError):
    """Redis answers, but not to this user, or not this command."""


def _translate(error: Exception, url: str) -> Exception:
    """What a caller of the store gets for an error of the client library; the error itself when it is our mistake."""
    text = str(error)
    if isinstance(error, AuthenticationError | NoPermissionError):
        return ForbiddenError(f"Redis at {url} refuses: {text}; check the store URL and the user's ACL")
    if isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and "OOM" in text):
        return refused(Reason.STORE_FULL)
    away = isinstance(error, _AWAY_ERRORS) or any(word in text for word in _AWAY_WORDS)
    if isinstance(error, ResponseError) and not away:
        return error
    return StoreUnavailableError(f"Redis at {url} does not answer: {type(error).__name__}: {text}")


class RedisLink:
    """Calls to one Redis, at most `connections` at a time.

    When Redis was away or has restarted, leases in it have run out through no fault of their holders: for `grace_ms`
    after it is back, `grace_left_ms` is positive and nobody may expire them. It was away when a call failed after all
    retries; it has restarted when it has forgotten a script that it was given.
    """

    def __init__(self, client: Client, url: str, *, grace_ms: int, connections: int) -> None:
        self.client = client
        self.url = masked(url)
        self._grace_ms = grace_ms
        self._grace_until = 0.0
        self._away = False
        self._given: set[tuple[str, str]] = set()
        self._slots = asyncio.Semaphore(connections)

    @property
    def grace_left_ms(self) -> int:
        if self._away:  # the call that finds Redis back is the first of the time of grace
            return self._grace_ms
        return max(0, round((self._grace_until - time.monotonic()) * 1000))

    def came_back(self) -> None:
        """Begins the time of grace."""
        self._grace_until = time.monotonic() + self._grace_ms / 1000

    async def script(self, name: str, request: Callable[[int], Request]) -> Any:
        """Runs a script with the KEYS and ARGV that `request` makes for the grace that is left, in ms."""
        wanted = script(name)
        async with self._call():
            keys, args = request(self.grace_left_ms)
            given = (name, keys[0].partition("}")[0])
            try:
                reply = await self.client.evalsha(wanted.sha, len(keys), *keys, *args)
            except NoScriptError:
                if given in self._given:
                    self.came_back()
                    keys, args = request(self.grace_left_ms)
                reply = await self.client.eval(wanted.source, len(keys), *keys, *args)
            self._given.add(given)
            return reply

    async def fixed_script(self, name: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """Runs a script to which the time of grace is all one."""
        return await self.script(name, lambda _: (keys, args))

    async def run(self, *command: Arg, **options: Any) -> Any:
        """Runs a plain command; `options` are the client's own."""
        async with self._call():
            return await self.client.execute_command(*command, **options)

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        async with self._slots:
            try:
                with cancellation_kept():
                    yield
            except (NoConnectionError, NoReplyError, RedisClusterException, OSError) as error:
                self._away = True
                raise _translate(error, self.url) from error
            except RedisError as error:
                raise _translate(error, self.url) from error
            if self._away:
                self._away = False
                self.came_back()

    async def aclose(self) -> None:
        await self.client.aclose()
