"""The HTTP front over real sockets, before conversations that play events: routes, credentials, bodies, streams."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from http_answers import PlayedConversations, PlayedLife, committed
from http_client import Answer, Connection, ask
from roost.contract.api_keys import hash_api_key
from roost.contract.events import Delta, Event, Queued, Restarted, TextPart
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.records import StoreAwayError
from roost_gateway.config import ConfigError
from roost_gateway.front.credentials import Authenticator
from roost_gateway.front.http import calls, protocol, steps
from roost_gateway.front.http.app import create_app
from roost_gateway.front.http.calls import HttpFront
from roost_gateway.front.http.server import HttpServer
from roost_gateway.telemetry import Telemetry

Play = Callable[[], AsyncIterator[Event]]
PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
STREAM = {**BODY, "stream": True}
LIMIT = 64 * 1024
HELLO = Delta("Hel", [1], 0, 0, parts=(TextPart("Hel"),))


async def hello() -> AsyncIterator[Event]:
    yield HELLO
    yield committed("Hello")


class Front:
    """A server before played conversations."""

    def __init__(self, conversations: PlayedConversations, life: PlayedLife | None, keys: Path | None) -> None:
        self.conversations = conversations
        self.reader, self.exporter = InMemoryMetricReader(), InMemorySpanExporter()
        self.telemetry = Telemetry("g", reader=self.reader, exporter=self.exporter)
        runtime: Any = life or PlayedLife(conversations)
        self.front = HttpFront(runtime, Authenticator(keys), self.telemetry, LIMIT, ("x-job",))
        self.server = HttpServer(create_app(self.front), "127.0.0.1:0")
        self.address = ""

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return await ask(self.address, method, path, body, **headers)

    async def stream(self) -> Connection:
        """A connection on which a stream has begun."""
        connection = await Connection.to(self.address)
        await connection.send("POST", PATH, json.dumps(STREAM).encode())
        await connection.head()
        return connection


Serve = Callable[..., Any]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(
            play: Play = hello, *, keys: list[dict[str, Any]] | None = None, life: PlayedLife | None = None
        ) -> Front:
            path = tmp_path / "keys.yaml" if keys is not None else None
            if path is not None:
                path.write_text(yaml.safe_dump({"keys": keys}))
            front = Front(PlayedConversations(play), life, path)
            stack.callback(front.telemetry.close)
            front.address = await front.server.start()
            stack.push_async_callback(front.server.stop, 0.0)
            return front

        yield start


def key(name: str, *pools: str) -> dict[str, Any]:
    return {"id": name, "sha256": hash_api_key(name), "tenant": name, "pools": list(pools)}


@pytest.mark.parametrize("path", ["/", "/api/hello", "/v1/chat", "/v1/chat/completions/", "/v1/embeddings"])
@pytest.mark.parametrize("method", ["HEAD", "GET", "POST"])
async def test_an_unknown_path_is_a_short_404_without_a_key(serve: Serve, method: str, path: str) -> None:
    """HEAD /api/hello: Claude Code."""
    front = await serve(keys=[key("a", "*")])
    answer = await front.ask(method, path)
    assert answer.status == 404
    assert method == "HEAD" or answer.json["error"]["type"] == "invalid_request_error"


async def test_another_method_is_405(serve: Serve) -> None:
    answer = await (await serve()).ask("GET", PATH)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
async def test_health_says_whether_steps_are_taken(serve: Serve, ready: bool, status: int) -> None:
    front = await serve(keys=[], life=PlayedLife(PlayedConversations(hello), ready))
    assert (await front.ask("GET", "/health")).status == status
    assert (await front.ask("HEAD", "/health")).status == status


async def test_keys_come_as_bearer_or_as_x_api_key(serve: Serve) -> None:
    front = await serve(keys=[key("a", "team/p"), key("b", "team/p")])
    for headers in ({}, {"authorization": "Bearer c"}, {"x_api_key": "c"}, {"authorization": "Basic a"}):
        answer = await front.ask("POST", PATH, BODY, **headers)
        assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")
    for headers in ({"authorization": "Bearer a"}, {"x_api_key": "a"}, {"authorization": "Bearer a", "x_api_key": "b"}):
        assert (await front.ask("POST", PATH, BODY, **headers)).status == 200
        assert front.conversations.asked[-1][1].tenant == "a"


async def test_models_are_those_of_the_key(serve: Serve) -> None:
    front = await serve(keys=[key("a", "team/p"), key("b", "team/other")])
    models = (await front.ask("GET", "/v1/models", authorization="Bearer a")).json
    assert [(model["id"], model["object"], model["max_model_len"]) for model in models["data"]] == [
        ("m", "model", 2048)
    ]
    assert models["has_more"] is False
    assert (await front.ask("GET", "/v1/models", authorization="Bearer b")).json["data"] == []
    assert (await front.ask("GET", "/v1/models/m", authorization="Bearer a")).json["owned_by"] == "team/p"
    answer = await front.ask("GET", "/v1/models/m", authorization="Bearer b")
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")


async def test_metrics_are_for_keys_of_all_pools(serve: Serve) -> None:
    front = await serve(keys=[key("a", "team/p"), key("b", "*")])
    assert (await front.ask("GET", "/metrics", authorization="Bearer a")).status == 403
    answer = await front.ask("GET", "/metrics", authorization="Bearer b")
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain")


async def test_a_whole_answer_has_its_session_and_the_names_of_what_had_no_effect(serve: Serve) -> None:
    front = await serve()
    answer = await front.ask("POST", PATH, {**BODY, "store": True}, x_job="nightly", x_stainless_retry_count="1")
    assert answer.status == 200
    assert answer.json["choices"][0]["message"] == {"role": "assistant", "content": "Hello"}
    assert answer.headers["x-roost-session"] == "team/p:1"
    assert answer.headers["x-roost-match"] == "new"
    assert answer.headers["x-roost-cached-tokens"] == "0"
    assert answer.headers["x-roost-ignored"] == "store"
    assert answer.headers["x-request-id"].startswith("req_")
    conversation, _ = front.conversations.asked[0]
    assert (conversation.model, conversation.family, conversation.is_retry) == ("m", "nightly", True)


async def test_text_is_completed_as_a_users_message(serve: Serve) -> None:
    front = await serve()
    answer = await front.ask("POST", "/v1/completions", {"prompt": ["hello"], "max_tokens": 5})
    assert answer.json["choices"][0]["text"] == "Hello"
    conversation, _ = front.conversations.asked[0]
    assert [message.content for message in conversation.messages] == ["hello"]
    for prompt in (["a", "b"], [1, 2], 3, None):
        answer = await front.ask("POST", "/v1/completions", {"prompt": prompt})
        assert (answer.status, answer.json["error"]["param"]) == (400, "prompt")


async def test_a_stream_ends_tidily_after_its_commit(serve: Serve) -> None:
    for path, body in ((PATH, STREAM), ("/v1/completions", {"prompt": "hello", "stream": True})):
        answer = await (await serve()).ask("POST", path, body)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-roost-session"] == "team/p:1"
        assert answer.data[-1] == "[DONE]"
        assert answer.is_complete


async def test_an_error_before_the_first_event_has_a_status_of_its_own(serve: Serve) -> None:
    async def refuse() -> AsyncIterator[Event]:
        yield Queued(3)
        raise Refused(Reason.QUEUE_FULL, "the queue is full", retry_seconds=1.5)

    front = await serve(refuse)
    for body in (BODY, STREAM):
        answer = await front.ask("POST", PATH, body)
        assert (answer.status, answer.headers["retry-after"], answer.is_complete) == (429, "2", True)
        assert answer.json["error"]["code"] == "queue_full"


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


async def test_an_unexpected_error_is_500_and_its_cause_is_in_the_log_alone(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> AsyncIterator[Event]:
        raise RuntimeError("a secret")
        yield

    answer = await (await serve(fail)).ask("POST", PATH, BODY)
    assert answer.status == 500
    assert "a secret" not in str(answer.json)
    assert answer.headers["x-request-id"] in caplog.text
    assert "a secret" in caplog.text


async def test_a_store_that_is_away_is_503(serve: Serve) -> None:
    async def away() -> AsyncIterator[Event]:
        raise StoreAwayError("redis://secret")
        yield

    answer = await (await serve(away)).ask("POST", PATH, BODY)
    assert (answer.status, answer.json["error"]["code"]) == (503, "store_unavailable")
    assert "retry-after" in answer.headers


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
    (found,) = (point.attributes["outcome"] for point in points if point.attributes["method"] == PATH)
    return str(found)


async def test_a_call_continues_the_trace_of_its_client(serve: Serve) -> None:
    front = await serve()
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    await front.ask("POST", PATH, BODY, traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
    front.telemetry.close()
    (span,) = front.exporter.get_finished_spans()
    assert span.name == f"POST {PATH}"
    assert f"{span.context.trace_id:032x}" == trace_id


@pytest.mark.parametrize("sent", [b"{", b"[]", b'{"messages": 1}', b'{"a":' * 5000, b"\x00\xff"])
async def test_a_malformed_body_is_400_and_names_the_field(serve: Serve, sent: bytes) -> None:
    answer = await (await serve()).ask("POST", PATH, sent)
    assert answer.status == 400
    assert answer.json["error"]["param"] in ("body", "messages")


async def test_a_compressed_body_is_400(serve: Serve) -> None:
    answer = await (await serve()).ask("POST", PATH, b"\x1f\x8b", content_encoding="gzip")
    assert (answer.status, answer.json["error"]["param"]) == (400, "content-encoding")


async def test_a_large_body_is_413_and_a_body_within_the_limit_is_read(serve: Serve) -> None:
    front = await serve()
    rest = len(json.dumps({**BODY, "user": ""}))
    assert (await front.ask("POST", PATH, {**BODY, "user": "x" * (LIMIT - rest)})).status == 200
    answer = await front.ask("POST", PATH, {**BODY, "user": "x" * (LIMIT - rest + 1)})
    assert (answer.status, answer.json["error"]["code"]) == (413, "message_too_large")
    assert answer.headers["connection"] == "close"


async def test_a_much_larger_body_is_refused_before_its_end(serve: Serve) -> None:
    connection = await Connection.to((await serve()).address)
    connection.writer.write(f"POST {PATH} HTTP/1.1\r\nhost: t\r\ncontent-length: {LIMIT * 1000}\r\n\r\n".encode())
    connection.writer.write(b"x" * 3 * LIMIT)
    assert (await connection.head()).status == 413
    connection.writer.transport.abort()


async def test_a_body_that_does_not_come_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "BODY_SECONDS", 0.01)
    connection = await Connection.to((await serve()).address)
    connection.writer.write(f"POST {PATH} HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\n{{".encode())
    await connection.head()
    answer = await connection.end()
    assert (answer.status, answer.json["error"]["param"]) == (400, "body")
    await connection.close()


@pytest.mark.parametrize("head", ["GET /{} HTTP/1.1\r\n", "GET / HTTP/1.1\r\nx: {}", "GET / HTTP/1.1\r\n{}"])
async def test_a_head_without_end_closes_the_connection(serve: Serve, head: str) -> None:
    connection = await Connection.to((await serve()).address)
    filler = "x: y\r\n" if head.endswith("\r\n{}") else "x" * 6
    connection.writer.write(head.format(filler * (protocol.MAX_HEAD_BYTES // 5)).encode())
    assert (await connection.head()).status == 400
    await connection.end()
    assert await connection.reader.read() == b""
    await connection.close()


@pytest.mark.parametrize("begun", [b"", b"POST / HTTP/1.1\r\nhost:"])
async def test_a_head_that_does_not_come_closes_the_connection(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.01)
    connection = await Connection.to((await serve()).address)
    connection.writer.write(begun)
    assert await connection.reader.read() == b""
    await connection.close()


async def test_a_connection_serves_one_request_after_another(serve: Serve) -> None:
    connection = await Connection.to((await serve()).address)
    for body in (BODY, STREAM, {}, BODY):
        await connection.send("POST", PATH, json.dumps(body).encode())
        await connection.head()
        assert (await connection.end()).is_complete
    await connection.close()


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


async def test_a_taken_port_is_a_clear_error(serve: Serve) -> None:
    front = await serve()
    with pytest.raises(ConfigError, match=r"http_listen.*choose another port"):
        await HttpServer(create_app(front.front), front.address).start()
