"""The SDK without asyncio: the same calls, blocking.

    with SyncClient.connect("127.0.0.1:7433") as client:
        session = client.open(system="You are terse.")
        for event in session.step("Say hello.", max_tokens=40):
            ...

Calls run in one background thread that all clients of the process share. Several threads may use a client, also threads
with a running event loop (which the calls block); one thread at a time may use a session. Ctrl-C during a call cancels
it.
"""

import asyncio
import concurrent.futures
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import grpc

from roost._client import Client
from roost._retry import RetryConfig
from roost._session import Session
from roost._step import Step
from roost._transport import TLSConfig
from roost.contract.events import Event
from roost.contract.heads import Head
from roost.errors import StepCancelledError

__all__ = ["SyncClient", "SyncSession", "SyncStep"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_W = TypeVar("_W")


class Background:
    """A thread with an event loop that lives as long as it has users."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="roost-sync", daemon=True)
                self._thread.start()

    def leave(self) -> None:
        """Ends the thread with its last user. Calls that other threads are waiting for raise StepCancelledError."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            assert loop is not None
            assert thread is not None
            ended = asyncio.run_coroutine_threadsafe(_end_everything(), loop)
        ended.result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Returns the coroutine's result. Raises RuntimeError when all clients have been closed.

        When it is interrupted, it cancels the coroutine and waits for its end.
        """
        result: concurrent.futures.Future[_T] = concurrent.futures.Future()
        tasks: list[asyncio.Task[_T]] = []

        def begin() -> None:
            tasks.append(asyncio.get_running_loop().create_task(coroutine))
            tasks[0].add_done_callback(lambda task: _copy(task, result))

        def give_up() -> None:
            if tasks:
                tasks[0].cancel()
            else:
                coroutine.close()
                result.cancel()

        loop: asyncio.AbstractEventLoop | None = None
        try:
            with self._lock:  # so that `leave` waits for every coroutine that was begun
                loop = self._loop
                if loop is None:
                    raise RuntimeError("the client is closed; make another with `SyncClient.connect`")
                loop.call_soon_threadsafe(begin)
            return result.result()
        except BaseException:
            if loop is None:
                coroutine.close()
            elif not result.done():
                loop.call_soon_threadsafe(give_up)
                concurrent.futures.wait([result])
            raise


async def _end_everything() -> None:
    """Cancels all other tasks of this loop, and waits for them."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _copy(task: "asyncio.Task[_T]", result: "concurrent.futures.Future[_T]") -> None:
    if task.cancelled():
        result.set_exception(
            StepCancelledError("the client was closed during the call", status=grpc.StatusCode.CANCELLED)
        )
    elif (error := task.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(task.result())


BACKGROUND = Background()
"""Shared by all clients of the process."""


class _Sync(Generic[_W]):
    """A blocking wrapper of an object of the SDK."""

    def __init__(self, wrapped: _W) -> None:
        self._wrapped = wrapped

    def __repr__(self) -> str:
        return f"<Sync {self._wrapped!r}>"


def _blocking(
    method: Callable[Concatenate[_W, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[_Sync[_W], _P], _T]:
    @functools.wraps(method)
    def call(self: _Sync[_W], /, *args: _P.args, **options: _P.kwargs) -> _T:
        return BACKGROUND.run(method(self._wrapped, *args, **options))

    return call


def _iterating(
    method: Callable[Concatenate[_W, _P], AsyncIterator[_T]],
) -> Callable[Concatenate[_Sync[_W], _P], Iterator[_T]]:
    @functools.wraps(method)
    def call(self: _Sync[_W], /, *args: _P.args, **options: _P.kwargs) -> Iterator[_T]:
        items = method(self._wrapped, *args, **options)
        while True:
            try:
                item = BACKGROUND.run(_next(items))
            except StopAsyncIteration:
                return
            yield item

    return call


async def _next(items: AsyncIterator[_T]) -> _T:
    return await anext(items)


class SyncStep(_Sync[Step]):
    """`roost.Step`, iterated with `for`. To cancel it, leave `with session.step(…) as events:` early."""

    result = _blocking(Step.result)
    close = _blocking(Step.aclose)

    @property
    def step_id(self) -> str:
        return self._wrapped.step_id

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        try:
            return BACKGROUND.run(_next(self._wrapped))
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _stepping(method: Callable[Concatenate[Session, _P], Step]) -> Callable[Concatenate[_Sync[Session], _P], SyncStep]:
    @functools.wraps(method)
    def call(self: _Sync[Session], /, *args: _P.args, **options: _P.kwargs) -> SyncStep:
        return SyncStep(method(self._wrapped, *args, **options))

    return call


def _opening(
    method: Callable[Concatenate[_W, _P], Coroutine[Any, Any, Session]],
) -> Callable[Concatenate[_Sync[_W], _P], "SyncSession"]:
    @functools.wraps(method)
    def call(self: _Sync[_W], /, *args: _P.args, **options: _P.kwargs) -> "SyncSession":
        return SyncSession(BACKGROUND.run(method(self._wrapped, *args, **options)))

    return call


class SyncSession(_Sync[Session]):
    """`roost.Session` with blocking calls."""

    step = _stepping(Session.step)
    run = _blocking(Session.run)
    info = _blocking(Session.info)
    fork = _opening(Session.fork)
    fold = _blocking(Session.fold)
    hold = _blocking(Session.hold)
    evict = _blocking(Session.evict)
    extend_budget = _blocking(Session.extend_budget)
    close = _blocking(Session.close)
    delete = _blocking(Session.delete)
    steps = _iterating(Session.steps)

    @property
    def id(self) -> str:
        return self._wrapped.id

    @property
    def head(self) -> Head | None:
        return self._wrapped.head

    @head.setter
    def head(self, head: Head | None) -> None:
        self._wrapped.head = head


class SyncClient(_Sync[Client]):
    """`roost.Client` with blocking calls. Create it with `SyncClient.connect`, and use it as a context manager."""

    def __init__(self, wrapped: Client) -> None:
        super().__init__(wrapped)
        self._closed = False

    @classmethod
    def connect(
        cls,
        targets: str | Sequence[str],
        *,
        api_key: str | None = None,
        pool: str | None = None,
        tls: TLSConfig | bool | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        retry: RetryConfig | None = None,
        lazy: bool = False,
    ) -> Self:
        """The same as `Client.connect`."""
        BACKGROUND.enter()
        try:
            connecting = Client.connect(
                targets,
                api_key=api_key,
                pool=pool,
                tls=tls,
                timeout=timeout,
                connect_timeout=connect_timeout,
                retry=retry,
                lazy=lazy,
            )
            return cls(BACKGROUND.run(connecting))
        except BaseException:
            BACKGROUND.leave()
            raise

    open = _opening(Client.open)
    sessions = _iterating(Client.sessions)

    def session(self, session_id: str) -> SyncSession:
        """The same as `Client.session`."""
        return SyncSession(self._wrapped.session(session_id))

    def close(self) -> None:
        """Closes the channels. Closing again changes nothing."""
        if not self._closed:
            self._closed = True
            try:
                BACKGROUND.run(self._wrapped.close())
            finally:
                BACKGROUND.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
