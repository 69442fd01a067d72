"""The SDK without asyncio: the same calls, blocking.

    with SyncClient.connect("127.0.0.1:7433") as client:
        session = client.open(system="You are terse.")
        for event in session.step("Say hello.", max_tokens=40):
            ...

Every call runs in one background thread that all clients of the process share. A client may be used by several
threads, also where an event loop runs (which it blocks); a session by one thread at a time. Ctrl-C while a call waits
cancels the call.
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
    """A thread with an event loop, alive while somebody uses it."""

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
        """Ends the thread with its last user; calls that other threads still wait for raise StepCancelledError."""
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
        """The coroutine's result. Raises RuntimeError when every client has been closed.

        Interrupted, it waits until the coroutine has ended its own business.
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
            with self._lock:  # so that what has begun is seen by `leave`
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
    """Cancels what runs in this loop, and waits for it."""
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
"""The one of this process."""


class _Sync(Generic[_W]):
    """Something of the SDK whose calls block."""

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
    """`roost.Step`, iterated with `for`. Leave the loop early inside `with session.step(…) as events:` to cancel it."""

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


class SyncSession(_Sync[Session]):
    """`roost.Session`; its calls block."""

    step = _stepping(Session.step)
    run = _blocking(Session.run)
    info = _blocking(Session.info)
    hold = _blocking(Session.hold)
    evict = _blocking(Session.evict)
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


def _opening(
    method: Callable[Concatenate[Client, _P], Coroutine[Any, Any, Session]],
) -> Callable[Concatenate[_Sync[Client], _P], SyncSession]:
    @functools.wraps(method)
    def call(self: _Sync[Client], /, *args: _P.args, **options: _P.kwargs) -> SyncSession:
        return SyncSession(BACKGROUND.run(method(self._wrapped, *args, **options)))

    return call


class SyncClient(_Sync[Client]):
    """`roost.Client`; its calls block. Make it with `SyncClient.connect`, use it as a context manager."""

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
        """Closes the channels. Closing twice changes nothing."""
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
