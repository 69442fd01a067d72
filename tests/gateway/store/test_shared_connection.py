"""Many calls on one connection to Redis: each gets its own reply, whatever becomes of the others."""

import asyncio
import gc
import os
import signal
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.connection import HiredisRespSerializer
from redis.exceptions import ConnectionError as NoConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as NoReplyError

from redis_servers import PATIENCE_SECONDS, RedisServer
from roost.store.shared_connection import CallQueue, SharedConnection, _OpenConnection

BLOCKED_KEY = "list"


def packed(*command: str | int) -> bytes:
    return b"".join(HiredisRespSerializer().pack(*command))


@asynccontextmanager
async def shared(server: RedisServer, timeout: float = PATIENCE_SECONDS) -> AsyncIterator[SharedConnection]:
    connection = SharedConnection(lambda: Connection(port=server.port), timeout)
    try:
        yield connection
    finally:
        await connection.aclose()


async def blocked_call(raw: Redis, connection: SharedConnection) -> "asyncio.Task[object]":
    """A call that the server has begun, and answers when something is pushed to `BLOCKED_KEY`."""
    call = asyncio.create_task(connection.call(packed("BLPOP", BLOCKED_KEY, 0)))
    while not (await raw.info("clients"))["blocked_clients"]:
        pass
    return call


@pytest.fixture
async def raw(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis(port=redis_server.port) as client:
        yield client


@given(st.lists(st.sampled_from(["call", "leave", "write", "answer", "refuse"]), max_size=60), st.randoms())
async def test_a_reply_goes_to_the_call_that_was_written_in_its_place(actions, chance) -> None:
    queue, loop = CallQueue(), asyncio.get_running_loop()
    called, on_the_wire = list[tuple[bytes, asyncio.Future]](), deque[asyncio.Future]()
    unwritten = list[tuple[bytes, asyncio.Future]]()
    for number, action in enumerate(actions):
        if action == "call":
            call = b"%d" % number, loop.create_future()
            queue.add(*call, float(number))
            called.append(call)
            unwritten.append(call)
        elif action == "leave" and called:
            chance.choice(called)[1].cancel()
        elif action == "write":
            wanted = [call for call in unwritten if not call[1].cancelled()]
            assert queue.take_unwritten() == [command for command, _ in wanted]
            on_the_wire.extend(future for _, future in wanted)
            unwritten.clear()
        elif action in ("answer", "refuse") and on_the_wire:
            future = on_the_wire.popleft()
            queue.answer(ResponseError(str(number)) if action == "refuse" else number)
            if not future.cancelled() and action == "answer":
                assert future.result() == number
            elif not future.cancelled():
                assert str(future.exception()) == str(number)
    waiting = [future for _, future in called if not future.done()]
    assert (queue.oldest() is None) <= (not waiting)
    queue.fail(NoConnectionError("away"))
    assert all(isinstance(future.exception(), NoConnectionError) for future in waiting)
    assert queue.oldest() is None


async def test_a_reply_that_was_not_asked_for_is_an_error() -> None:
    with pytest.raises(NoConnectionError, match="not sent"):
        CallQueue().answer("hello")


async def test_the_call_that_has_waited_longest_is_the_first_whether_written_or_not() -> None:
    queue, loop = CallQueue(), asyncio.get_running_loop()
    queue.add(b"a", loop.create_future(), 1.0)
    assert queue.oldest() == 1.0
    queue.take_unwritten()
    queue.add(b"b", loop.create_future(), 2.0)
    assert queue.oldest() == 1.0
    queue.answer("a")
    assert queue.oldest() == 2.0


async def test_calls_share_a_connection_and_each_has_its_own_reply(redis_server: RedisServer) -> None:
    async with shared(redis_server) as connection:
        texts = [f"{number}" * 100 for number in range(200)]
        calls = [connection.call(packed("ECHO", text)) for text in texts]
        assert await asyncio.gather(*calls) == [text.encode() for text in texts]
        ids = await asyncio.gather(*(connection.call(packed("CLIENT", "ID")) for _ in range(20)))
        assert len(set(ids)) == 1


async def test_a_refused_call_leaves_the_others_as_they_are(redis_server: RedisServer) -> None:
    async with shared(redis_server) as connection:
        commands = [packed("ECHO", "a"), packed("EVALSHA", "0" * 40, 0), packed("ECHO", "b")]
        before, refused, after = await asyncio.gather(*map(connection.call, commands), return_exceptions=True)
        assert (before, after) == (b"a", b"b")
        assert isinstance(refused, ResponseError)


async def test_a_cancelled_call_leaves_the_others_as_they_are(redis_server: RedisServer, raw: Redis) -> None:
    async with shared(redis_server) as connection:
        client_id = await connection.call(packed("CLIENT", "ID"))
        written = await blocked_call(raw, connection)
        kept = asyncio.create_task(connection.call(packed("ECHO", "kept")))
        unwritten = asyncio.create_task(connection.call(packed("SET", "by", "a call that has gone")))
        await asyncio.sleep(0)  # both have called, and neither was written
        for call in (written, unwritten):
            call.cancel()
        await asyncio.wait([written, unwritten])
        await raw.rpush(BLOCKED_KEY, "x")
        assert await kept == b"kept"
        assert await connection.call(packed("CLIENT", "ID")) == client_id
        assert not await raw.exists("by")


async def test_a_broken_connection_fails_its_calls_and_the_next_call_opens_another(
    redis_server: RedisServer, raw: Redis
) -> None:
    async with shared(redis_server) as connection:
        client_id = await connection.call(packed("CLIENT", "ID"))
        calls = [await blocked_call(raw, connection), asyncio.create_task(connection.call(packed("ECHO", "a")))]
        await raw.client_kill_filter(_id=client_id)
        for call in calls:
            with pytest.raises(NoConnectionError):
                await call
        assert await connection.call(packed("CLIENT", "ID")) != client_id


async def answered(connection: SharedConnection) -> None:
    """Calls until there is an answer in time: a busy machine may need more than one try."""
    while True:
        try:
            assert await connection.call(packed("ECHO", "here")) == b"here"
            return
        except NoReplyError:
            pass


async def test_a_server_that_does_not_answer_is_given_up(fresh_redis: RedisServer) -> None:
    """Both by calls on an open connection and by those that need another."""
    async with shared(fresh_redis, timeout=0.2) as connection:
        await answered(connection)
        os.kill(fresh_redis.pid, signal.SIGSTOP)
        try:
            for _ in ("open", "not open"):
                calls = [connection.call(packed("PING")) for _ in range(3)]
                errors = await asyncio.gather(*calls, return_exceptions=True)
                assert [type(error) for error in errors] == [NoReplyError] * 3
        finally:
            os.kill(fresh_redis.pid, signal.SIGCONT)
        await answered(connection)


async def test_calls_that_wait_for_one_connection_open_one(redis_server: RedisServer, raw: Redis) -> None:
    before = (await raw.info("stats"))["total_connections_received"]
    async with shared(redis_server) as connection:
        first, *others = [asyncio.create_task(connection.call(packed("PING"))) for _ in range(9)]
        await asyncio.sleep(0)
        first.cancel()
        assert await asyncio.gather(*others) == [b"PONG"] * 8
        assert (await raw.info("stats"))["total_connections_received"] == before + 1


async def test_a_closed_connection_ends_its_calls(redis_server: RedisServer, raw: Redis) -> None:
    connection = SharedConnection(lambda: Connection(port=redis_server.port), PATIENCE_SECONDS)
    call = await blocked_call(raw, connection)
    await connection.aclose()
    with pytest.raises(NoConnectionError, match="closed"):
        await call


async def test_calls_that_wait_for_a_connection_fail_when_it_is_closed() -> None:
    """As those do that wait for a reply; only a call that is cancelled itself hears of a cancellation."""
    connections, accepted, ended = list[Connection](), asyncio.Event(), asyncio.Event()

    def new_connection() -> Connection:
        connections.append(Connection(port=port, socket_timeout=None))  # which is the shared connection's own matter
        return connections[-1]

    async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        ended.set()
        writer.close()

    async with await asyncio.start_server(says_nothing, "127.0.0.1") as silent:
        port = silent.sockets[0].getsockname()[1]
        connection = SharedConnection(new_connection, PATIENCE_SECONDS)
        waiting, cancelled = [asyncio.create_task(connection.call(packed("PING"))) for _ in range(2)]
        await accepted.wait()
        cancelled.cancel()
        await connection.aclose()
        with pytest.raises(NoConnectionError, match="closed"):
            await waiting
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        with pytest.raises(NoConnectionError, match="closed"):
            await connection.call(packed("PING"))
        assert [opened.is_connected for opened in connections] == [False]
        await ended.wait()


async def test_calls_fail_when_their_connection_is_closed_before_it_begins_to_open() -> None:
    connection = SharedConnection(lambda: Connection(port=1), PATIENCE_SECONDS)
    call = asyncio.create_task(connection.call(packed("PING")))
    await asyncio.sleep(0)  # it has called, and the task that opens has not begun
    await connection.aclose()
    with pytest.raises(NoConnectionError, match="closed"):
        await call


async def test_a_connection_that_is_closed_before_it_is_used_is_disconnected(redis_server: RedisServer) -> None:
    connection = Connection(port=redis_server.port)
    await connection.connect()
    await _OpenConnection(connection, PATIENCE_SECONDS).aclose()
    assert not connection.is_connected


async def test_a_connection_that_fails_after_its_only_caller_has_gone_fails_quietly() -> None:
    unhandled = list[dict[str, object]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    connection = SharedConnection(lambda: Connection(port=1), PATIENCE_SECONDS)
    call = asyncio.create_task(connection.call(packed("PING")))
    await asyncio.sleep(0)
    call.cancel()
    assert connection._opening is not None
    await asyncio.wait([connection._opening])
    connection._opening = None
    gc.collect()
    assert unhandled == []
