"""The HTTP front over real sockets: routes, credentials, bodies, errors that have a response of their own."""

import json
from collections.abc import AsyncIterator

import pytest

from http_answers import PlayedConversations, PlayedLife
from http_client import Connection
from http_front import BODY, LIMIT, PATH, STREAM, Serve, hello, key
from roost.contract.events import Event, Queued
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.records import StoreAwayError
from roost_gateway.config import ConfigError
from roost_gateway.front.http import calls, protocol
from roost_gateway.front.http.app import create_app
from roost_gateway.front.http.server import HttpServer


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


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("DELETE", "/v1/messages/count_tokens", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
    ],
)
async def test_what_is_not_served_below_anthropics_path_is_said_in_its_form(
    serve: Serve, method: str, path: str, status: int, kind: str
) -> None:
    answer = await (await serve()).ask(method, path)
    assert (answer.status, answer.json["type"], answer.json["error"]["type"]) == (status, "error", kind)
    assert answer.json["request_id"] == answer.headers["request-id"] != ""


async def test_paths_that_only_look_like_anthropics_are_openais(serve: Serve) -> None:
    assert "code" in (await (await serve()).ask("GET", "/v1/messages-of-mine")).json["error"]


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


async def test_an_error_before_the_first_event_has_a_status_of_its_own(serve: Serve) -> None:
    async def refuse() -> AsyncIterator[Event]:
        yield Queued(3)
        raise Refused(Reason.QUEUE_FULL, "the queue is full", retry_seconds=1.5)

    front = await serve(refuse)
    for body in (BODY, STREAM):
        answer = await front.ask("POST", PATH, body)
        assert (answer.status, answer.headers["retry-after"], answer.is_complete) == (429, "2", True)
        assert answer.json["error"]["code"] == "queue_full"


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


async def test_a_client_of_an_old_connection_is_asked_to_reconnect(serve: Serve) -> None:
    """So that clients spread over new gateways."""
    front = await serve()
    server = HttpServer(create_app(front.front), "127.0.0.1:0", max_connection_age_seconds=1e-9)
    connection = await Connection.to(await server.start())
    await connection.send("POST", PATH, json.dumps(STREAM).encode())
    assert (await connection.head()).headers["connection"] == "close"
    assert (await connection.end()).is_complete
    assert await connection.reader.read() == b""
    await connection.close()
    await server.stop(0.0)
    assert "connection" not in (await front.ask("POST", PATH, BODY)).headers


async def test_a_connection_serves_one_request_after_another(serve: Serve) -> None:
    connection = await Connection.to((await serve()).address)
    for body in (BODY, STREAM, {}, BODY):
        await connection.send("POST", PATH, json.dumps(body).encode())
        await connection.head()
        assert (await connection.end()).is_complete
    await connection.close()


async def test_a_taken_port_is_a_clear_error(serve: Serve) -> None:
    front = await serve()
    with pytest.raises(ConfigError, match=r"http_listen.*choose another port"):
        await HttpServer(create_app(front.front), front.address).start()
