"""Anthropic's Messages API through a whole gateway, to a null worker."""

import json
from typing import Any

import pytest

from gateway_driver import world
from http_client import Answer, Connection, ask
from malformed import places, replaced
from null_script import BASE_ID, Script, token_text
from redis_servers import RedisServer
from roost.contract.reasons import Reason
from wire_requests import requests_of

PATH = "/v1/messages"
HTTP = {"http_listen": "127.0.0.1:0"}
TEXT = "".join(token_text(BASE_ID + number) for number in range(8))
HELLO = {"max_tokens": 100, "model": "null", "messages": [{"role": "user", "content": "hello"}]}


def events(answer: Answer) -> list[str]:
    """The names of a stream's events, which their data repeat."""
    names = [line.removeprefix("event: ") for line in answer.body.decode().split("\n") if line.startswith("event: ")]
    assert names == [data["type"] for data in answer.data]
    return names


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_is_one_session(redis_server: RedisServer, stream: bool) -> None:
    async with world(redis_server, **HTTP) as w:
        history: list[dict[str, Any]] = []
        matches = []
        for number in range(3):
            content: Any = [{"type": "text", "text": f"question {number}", "cache_control": {"type": "ephemeral"}}]
            body = {**HELLO, "messages": [*history, {"role": "user", "content": content}], "stream": stream}
            answer = await ask(w.gateway.http_address, "POST", f"{PATH}?beta=true", body)
            assert answer.status == 200, answer.body
            matches.append(answer.headers["x-roost-match"])
            said = TEXT if stream else answer.json["content"][0]["text"]
            history += [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": said}]
        assert matches == ["new", "continued", "continued"]


async def test_a_stream_has_the_events_of_the_api_and_ends_after_the_commit(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        answer = await ask(w.gateway.http_address, "POST", PATH, {**HELLO, "stream": True})
        assert answer.is_complete
        first, *rest = events(answer)
        assert first == "message_start"
        assert rest[0] == "content_block_start"
        assert rest[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert answer.data[-2]["usage"]["output_tokens"] == 8
        await w.worker.until(lambda: w.worker.commits)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_sequence_that_ended_the_output_is_named_also_to_a_retry(
    redis_server: RedisServer, stream: bool
) -> None:
    async with world(redis_server, Script(stop_string="END"), **HTTP) as w:
        body = {**HELLO, "stop_sequences": ["END"], "stream": stream}
        for count in ("0", "1"):
            answer = await ask(w.gateway.http_address, "POST", PATH, body, x_stainless_retry_count=count)
            end = answer.data[-2]["delta"] if stream else answer.json
            assert (end["stop_reason"], end["stop_sequence"]) == ("stop_sequence", "END")
        assert answer.headers["x-roost-match"] == "attached"


async def test_a_failed_stream_has_an_error_event_and_no_end(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(hang_after=2), **HTTP) as w:
        connection = await Connection.to(w.gateway.http_address)
        await connection.send("POST", PATH, json.dumps({**HELLO, "stream": True}).encode())
        await connection.head()
        await connection.until(b"text_delta")
        await w.gateway.stop(0.0)
        answer = await connection.end()
        await connection.close()
        assert not answer.is_complete
        assert events(answer)[-1] == "error"
        assert answer.data[-1]["error"]["type"] == "overloaded_error"


async def test_claude_codes_subagents_are_sessions_of_their_own(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        wires = requests_of("claude-code-subagent")
        headers = [{name.replace("-", "_"): value for name, value in wire.headers.items()} for wire in wires]
        bodies = [{**wire.body, "model": "null", "stream": False} for wire in wires]
        pairs = zip(bodies, headers, strict=True)
        answers = [await ask(w.gateway.http_address, "POST", PATH, body, **each) for body, each in pairs]
        assert [answer.status for answer in answers] == [200, 200]
        assert len({answer.headers["x-roost-session"] for answer in answers}) == 2


async def test_tokens_are_counted_without_a_session(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        body = {"model": "null", "system": "brief", "messages": HELLO["messages"]}
        answer = await ask(w.gateway.http_address, "POST", f"{PATH}/count_tokens", body)
        assert answer.json == {"input_tokens": len("brief" + "hello")}
        assert not w.worker.starts


async def test_an_answer_cannot_be_begun_for_the_model(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        body = {**HELLO, "messages": [*HELLO["messages"], {"role": "assistant", "content": "I"}]}
        answer = await ask(w.gateway.http_address, "POST", PATH, body)
        assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")


async def test_malformed_bodies_are_refused_in_the_apis_form(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        w.worker.script.refuse = Reason.INVALID_REQUEST  # what a gateway accepts goes no further
        body = {**HELLO, "tools": [{"name": "read", "input_schema": {}}], "top_k": 1, "system": [], "metadata": {}}
        for path in places(body):
            for value in (None, 7, -1.5, "x", "\ud800", [7], {"type": "x"}, float("nan")):
                raw = json.dumps(replaced(body, path, value)).encode()
                answer = await ask(w.gateway.http_address, "POST", PATH, raw)
                assert answer.status in (400, 404), (path, value, answer.body)
                assert answer.json["type"] == "error"
                assert answer.json["error"]["type"] in ("invalid_request_error", "not_found_error")
                assert answer.json["request_id"] == answer.headers["request-id"]
