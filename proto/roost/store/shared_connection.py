"""One connection to Redis for many calls at once.

What is called in one turn of the event loop is written together; replies come in the order in which calls were written.
A connection of redis-py does the rest: TLS, login, protocol, parsing.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NoConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as NoReplyError


@dataclass(slots=True, eq=False)
class _Call:
    packed: bytes
    reply: asyncio.Future[Any]
    since: float


class CallQueue:
    """Calls in their order: those to write, then those whose reply has not come. No I/O.

    A call whose caller has gone is not written; once written it keeps its place, since its reply comes all the same.
    """

    def __init__(self) -> None:
        self._unwritten: list[_Call] = []
        self._written: deque[_Call] = deque()

    def add(self, packed: bytes, reply: asyncio.Future[Any], now: float) -> None:
        """Adds a call, at `now` in seconds of the event loop's clock."""
        self._unwritten.append(_Call(packed, reply, now))

    def take_unwritten(self) -> list[bytes]:
        """The commands to write now. From now on their replies are expected."""
        calls, self._unwritten = [call for call in self._unwritten if not call.reply.done()], []
        self._written.extend(calls)
        return [call.packed for call in calls]

    def answer(self, reply: Any) -> None:
        """Gives a reply, or the error that the server answered, to the call that is next.

        Raises ConnectionError of redis-py when no reply was expected.
        """
        if not self._written:
            raise NoConnectionError("Redis replied to a command that was not sent")
        waiting = self._written.popleft().reply
        if waiting.done():
            return
        if isinstance(reply, Exception):
            waiting.set_exception(reply)
        else:
            waiting.set_result(reply)

    def fail(self, error: Exception) -> None:
        """Ends all calls."""
        for call in self._calls():
            if not call.reply.done():
                call.reply.set_exception(error)
        self._unwritten.clear()
        self._written.clear()

    def oldest(self) -> float | None:
        """When the call was added that has waited longest; None without calls."""
        return next((call.since for call in self._calls()), None)

    def _calls(self) -> Iterator[_Call]:
        yield from self._written
        yield from self._unwritten


class _OpenConnection:
    """The calls on one connection, from its opening to its end, when it fails or is closed."""

    def __init__(self, connection: AbstractConnection, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._calls = CallQueue()
        self._has_unwritten = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.has_ended = False
        self._tasks = [asyncio.create_task(self._write(), name="write to Redis"), asyncio.create_task(self._read())]

    def call(self, packed: bytes) -> asyncio.Future[Any]:
        """Sends a command, and returns the future of its reply. Raises ConnectionError after the connection's end."""
        if self.has_ended:
            raise NoConnectionError("the connection to Redis has just ended")
        reply, now = self._loop.create_future(), self._loop.time()
        self._calls.add(packed, reply, now)
        self._has_unwritten.set()
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._timeout, self._check_oldest)
        return reply

    async def _write(self) -> None:
        try:
            while True:
                await self._has_unwritten.wait()
                self._has_unwritten.clear()
                if commands := self._calls.take_unwritten():
                    await self._connection.send_packed_command(commands, check_health=False)
        except Exception as error:
            self._end(error)

    async def _read(self) -> None:
        try:
            while True:
                try:
                    reply = await self._connection.read_response()
                except ResponseError as error:
                    reply = error
                self._calls.answer(reply)
        except Exception as error:
            self._end(error)
        finally:
            await self._connection.disconnect(nowait=True)

    def _check_oldest(self) -> None:
        """Ends the connection if a call has waited too long; else looks again when one may have."""
        self._timer, oldest = None, self._calls.oldest()
        if oldest is None:
            return
        if oldest + self._timeout > self._loop.time():
            self._timer = self._loop.call_at(oldest + self._timeout, self._check_oldest)
        else:
            self._end(NoReplyError(f"no reply within {self._timeout} s"))

    def _end(self, error: Exception) -> None:
        self.has_ended = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._calls.fail(error)

    async def aclose(self) -> None:
        self._end(_closed())
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.disconnect(nowait=True)  # a task that had not begun has not done it


class SharedConnection:
    """Sends commands over one connection, which it opens at the first call, and again at the first after it broke.

    A call that is cancelled leaves the connection and the other calls as they are. When a reply has not come for
    `timeout` seconds, the connection is given up and all its calls fail. Once closed, it opens none again.
    """

    def __init__(self, new_connection: Callable[[], AbstractConnection], timeout: float) -> None:
        """`new_connection` makes a connection without a timeout of its own, which need not be open."""
        self._new_connection = new_connection
        self._timeout = timeout
        self._current: _OpenConnection | None = None
        self._opening: asyncio.Task[_OpenConnection] | None = None
        self._is_closed = False

    async def call(self, packed: bytes) -> Any:
        """Sends a packed command once, and returns the reply.

        Raises redis-py's ResponseError for what the server refuses, ConnectionError or TimeoutError when the reply does
        not come; then the command may have been run or not. CancelledError comes from the caller's own task alone.
        """
        current = self._current
        if current is None or current.has_ended:
            current = await self._open()
        return await current.call(packed)

    async def _open(self) -> _OpenConnection:
        """Opens a connection, once for all calls that wait for it."""
        if self._is_closed:
            raise _closed()
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open_once(), name="connect to Redis")
            self._opening.add_done_callback(_observe)
        opening = self._opening
        await asyncio.wait([opening])  # a call that is cancelled here leaves it to the others
        if opening.cancelled():
            raise _closed()
        return opening.result()

    async def _open_once(self) -> _OpenConnection:
        connection = self._new_connection()
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
        except TimeoutError as error:
            await connection.disconnect(nowait=True)
            raise NoReplyError(f"no connection within {self._timeout} s") from error
        self._current = _OpenConnection(connection, self._timeout)
        return self._current

    async def aclose(self) -> None:
        """Ends the connection. Calls that wait fail with ConnectionError, and so do those that come later."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._current is not None:
            await self._current.aclose()


def _closed() -> NoConnectionError:
    return NoConnectionError("the connection to Redis was closed")


def _observe(opening: asyncio.Task[_OpenConnection]) -> None:
    """All calls that waited for it may have been cancelled."""
    if not opening.cancelled():
        opening.exception()
