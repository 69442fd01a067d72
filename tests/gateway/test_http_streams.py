"""Streams over real sockets: how they end, what a client sees of waiting, and who may leave when."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from http_answers import committed
from http_client import Connection
from http_front import BODY, HELLO, PATH, STREAM, Front, Serve
from roost.contract.events import Delta, Event, Queued, Restarted, TextPart
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_gateway.front.http import protocol, steps


async def test_a_stream_ends_tidily_after_its_commit(serve: Serve) -> None:
    for path, body in ((PATH, STREAM), ("/v1/completions", {"prompt": "hello", "stream": True})):
        answer = await (await serve()).ask("POST", path, body)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-roost-session"] == "team/p:1"
        assert answer.data[-1] == "[DONE]"
        assert answer.is_complete


async def test_a_stream_that_fails_says_so_and_breaks_its_body(serve: Serve) -> None:
    async def fail() -> AsyncIterator[Event]:
        yield HELLO
        raise Refused(Reason.WORKER_FAILED, "the worker failed", retry_seconds=1.0)

    answer = await (await serve(fail)).ask("POST", PATH, STREAM)
    assert answer.status == 200
    assert answer.data[-1]["error"]["code"] == "worker_failed"
    assert not answer.is_complete


async def test_output_that_starts_again_fails_a_stream_that_has_output(serve: Serve) -> None:
    async def restart() -> AsyncIterator[Event]:
        yield HELLO
        yield Restarted("gateway and worker died")
        yield committed("Hello")

    answer = await (await serve(restart)).ask("POST", PATH, STREAM)
    assert answer.data[-1]["error"]["code"] == "worker_lost"
    assert not answer.is_complete


async def test_output_that_starts_again_before_anything_was_sent_is_no_matter(serve: Serve) -> None:
    async def restart() -> AsyncIterator[Event]:
        yield Delta("<thi", [1], 0, 0)
        yield Restarted("gateway and worker died")
        yield HELLO
        yield committed("Hello")

    answer = await (await serve(restart)).ask("POST", PATH, STREAM)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in answer.data[:-1]) == "Hello"
    assert answer.is_complete


async def test_a_stream_that_waits_has_comments_and_tells_where_it_waits(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "HEARTBEAT_SECONDS", 0.01)
    going_on = asyncio.Event()

    async def wait() -> AsyncIterator[Event]:
        await going_on.wait()
        yield Queued(3)
        yield HELLO
        yield committed("Hello")

    connection = await (await serve(wait)).stream()
    await connection.until(b": waiting\n\n: waiting\n\n")
    going_on.set()
    answer = await connection.end()
    assert "queued behind 3" in answer.comments
    assert answer.data[-1] == "[DONE]"
    assert answer.is_complete
    await connection.close()


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_a_client_that_leaves_cancels_its_step(serve: Serve, body: object) -> None:
    begun = asyncio.Event()

    async def hang() -> AsyncIterator[Event]:
        yield HELLO
        begun.set()
        await asyncio.Event().wait()

    front = await serve(hang)
    connection = await Connection.to(front.address)
    await connection.send("POST", PATH, json.dumps(body).encode())
    await begun.wait()
    await connection.close()
    await front.conversations.left.wait()
    assert await outcome(front) == "CANCELLED"


async def test_a_client_that_does_not_read_loses_its_step(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALL_SECONDS", 0.01)
    much = "x" * 256 * 1024

    async def write() -> AsyncIterator[Event]:
        while True:
            await asyncio.sleep(0)
            yield Delta(much, [1], 0, 0, parts=(TextPart(much),))

    front = await serve(write)
    connection = await front.stream()
    connection.writer.transport.pause_reading()
    await front.conversations.left.wait()
    connection.writer.transport.abort()
    assert await outcome(front) == "CANCELLED"


async def test_a_client_may_leave_after_the_last_event(serve: Serve) -> None:
    """Codex closes the connection when it has read the last event."""
    recorded, going_on = asyncio.Event(), asyncio.Event()

    async def record() -> AsyncIterator[Event]:
        yield committed("Hello")
        await going_on.wait()
        recorded.set()

    front = await serve(record)
    connection = await front.stream()
    await connection.until(b"[DONE]")
    await connection.close()
    assert (await front.ask("GET", "/health")).status == 200  # the server has seen the end of the first connection
    going_on.set()
    await recorded.wait()
    assert not front.conversations.left.is_set()
    assert await outcome(front) == "OK"


async def outcome(front: Front) -> str:
    """How the only completion ended, once it has."""
    await front.server.stop(30.0)
    data = front.reader.get_metrics_data()
    assert data is not None
    metrics = [metric for part in data.resource_metrics for scope in part.scope_metrics for metric in scope.metrics]
    points = next(metric for metric in metrics if metric.name == "roost.calls").data.data_points
    (outcome,) = (point.attributes["outcome"] for point in points if point.attributes["method"] == PATH)
    return str(outcome)


async def test_a_server_that_stops_lets_streams_end_and_closes_idle_connections(serve: Serve) -> None:
    going_on = asyncio.Event()

    async def wait() -> AsyncIterator[Event]:
        yield HELLO
        await going_on.wait()
        yield committed("Hello")

    front = await serve(wait)
    idle = await Connection.to(front.address)
    await idle.send("GET", "/health")
    await idle.head()
    await idle.end()
    connection = await front.stream()
    stopping = asyncio.create_task(front.server.stop(30.0))
    assert await idle.reader.read() == b""
    with pytest.raises(ConnectionError):
        await Connection.to(front.address)
    going_on.set()
    assert (await connection.end()).data[-1] == "[DONE]"
    await stopping
    await idle.close()
    await connection.close()


async def test_a_server_that_stops_at_once_breaks_its_streams(serve: Serve) -> None:
    begun = asyncio.Semaphore(0)

    async def hang() -> AsyncIterator[Event]:
        yield HELLO
        begun.release()
        await asyncio.Event().wait()

    front = await serve(hang)
    connection = await front.stream()
    whole = asyncio.create_task(front.ask("POST", PATH, BODY))
    for _ in range(2):
        await begun.acquire()
    await front.server.stop(0.0)
    answer = await connection.end()
    assert answer.data[-1]["error"]["code"] == "worker_draining"
    assert not answer.is_complete
    assert (await whole).status == 503
    await connection.close()
