"""OpenAI's Responses API through a whole gateway, to a null worker."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway_driver import POOL, world
from http_client import Answer, Connection, ask
from malformed import places, replaced
from null_script import BASE_ID, Script, token_text
from redis_servers import RedisServer
from roost.contract.api_keys import hash_api_key
from roost.contract.reasons import Reason
from roost.store.keys import PoolKeys
from roost.store.records import LogEntry
from roost.store.redis_store import RedisStore
from roost_gateway.front.http.ids import RESPONSE, name_of

PATH = "/v1/responses"
HTTP = {"http_listen": "127.0.0.1:0"}
TEXT = "".join(token_text(BASE_ID + number) for number in range(8))


async def create(address: str, input_: Any = "hello", **fields: Any) -> Answer:
    return await ask(address, "POST", PATH, {"input": input_, "model": "null", **fields})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_that_is_sent_whole_is_one_session(redis_server: RedisServer, stream: bool) -> None:
    async with world(redis_server, **HTTP) as w:
        items: list[Any] = []
        answers = []
        for number in range(3):
            items.append({"role": "user", "content": f"question {number}"})
            answer = await create(w.gateway.http_address, items, stream=stream)
            assert answer.status == 200, answer.body
            response = answer.data[-1]["response"] if stream else answer.json
            assert (response["status"], response["output"][0]["content"][0]["text"]) == ("completed", TEXT)
            items += response["output"]
            answers.append(answer)
        assert [answer.headers["x-roost-match"] for answer in answers] == ["new", "continued", "continued"]
        assert all(answer.is_complete for answer in answers)


async def test_openai_agents_previous_response_continues_its_session(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        first = (await create(w.gateway.http_address, instructions="Be brief.")).json
        second = await create(
            w.gateway.http_address, "and now?", instructions="Be brief.", previous_response_id=first["id"]
        )
        assert second.headers["x-roost-match"] == "continued"
        assert second.json["usage"]["input_tokens"] > first["usage"]["total_tokens"]
        assert [len(start.messages) for start in w.worker.starts] == [1, 1]


async def test_system_text_of_the_input_stays_after_a_previous_response(redis_server: RedisServer) -> None:
    opening = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "hello"}]
    later = [{"role": "developer", "content": "Now be quick."}, {"role": "user", "content": "and now?"}]
    async with world(redis_server, **HTTP) as w:
        address = w.gateway.http_address
        for instructions in ({}, {"instructions": "Be brief."}):
            first = (await create(address, opening, **instructions)).json
            second = await create(address, later, **instructions, previous_response_id=first["id"])
            assert second.headers["x-roost-match"] == "continued"
            assert [message.content for message in w.worker.starts[-1].messages] == ["Now be quick.", "and now?"]
        with redis_server.client() as raw:
            raw.delete(*raw.keys(f"{PoolKeys(POOL).prefix}:c:*"))
        for instructions, system in (("", "Be brief.\n\nBe kind."), ("Be strict.", "Be strict.")):
            third = await create(address, "more", instructions=instructions, previous_response_id=second.json["id"])
            assert third.headers["x-roost-match"] == "imported"
            assert w.worker.starts[-1].system == system


async def test_ai_sdks_references_continue_the_session(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        first = (await create(w.gateway.http_address)).json
        reference = {"type": "item_reference", "id": first["output"][0]["id"]}
        items = [{"role": "user", "content": "hello"}, reference, {"role": "user", "content": "and now?"}]
        assert (await create(w.gateway.http_address, items)).headers["x-roost-match"] == "continued"


async def test_a_given_response_can_be_read_at_any_gateway(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        first = (await create(w.gateway.http_address)).json
        other = await w.rig.gateway(**HTTP)
        read = await ask(other.http_address, "GET", f"{PATH}/{first['id']}")
        assert read.status == 200
        for field in ("id", "output", "status", "usage", "model"):
            assert read.json[field] == first[field]
        assert (await ask(other.http_address, "GET", f"{PATH}/{first['output'][0]['id']}")).status == 404
        assert (await ask(other.http_address, "GET", f"{PATH}/{first['id']}?stream=true")).status == 400


async def test_each_response_of_a_session_can_be_read_without_the_others(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, log = list[int](), RedisStore.log

    async def noted(store: RedisStore, session_id: str, generation: int, first: int, count: int) -> list[LogEntry]:
        counts.append(count)
        return await log(store, session_id, generation, first, count)

    monkeypatch.setattr(RedisStore, "log", noted)
    async with world(redis_server, **HTTP) as w:
        given = [(await create(w.gateway.http_address)).json]
        for _ in range(2):
            given.append((await create(w.gateway.http_address, "more", previous_response_id=given[-1]["id"])).json)
        read = [(await ask(w.gateway.http_address, "GET", f"{PATH}/{each['id']}")).json for each in given]
        assert [each["usage"] for each in read] == [each["usage"] for each in given]
        assert counts == [1, 1, 1]
        assert len({each["usage"]["input_tokens"] for each in read}) == 3
        name = name_of(given[0]["id"])
        assert name is not None
        other = replace(name, step_id="other").id(RESPONSE)
        assert (await ask(w.gateway.http_address, "GET", f"{PATH}/{other}")).status == 404


async def test_the_latest_response_is_deleted_with_its_session(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        address = w.gateway.http_address
        first = (await create(address)).json
        second = (await create(address, "and now?", previous_response_id=first["id"])).json
        assert (await ask(address, "DELETE", f"{PATH}/{first['id']}")).status == 400
        deleted = await ask(address, "DELETE", f"{PATH}/{second['id']}")
        assert deleted.json == {"id": second["id"], "object": "response", "deleted": True}
        for response in (first, second):
            assert (await ask(address, "GET", f"{PATH}/{response['id']}")).status == 404


async def test_another_tenants_response_does_not_exist(redis_server: RedisServer, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    entries = [
        {"id": name, "sha256": hash_api_key(name), "tenant": name, "pools": ["*"]} for name in ("alice", "mallory")
    ]
    keys.write_text(json.dumps({"keys": entries}))
    async with world(redis_server, **HTTP, api_keys_file=keys) as w:
        address = w.gateway.http_address

        async def sent(key: str, method: str, path: str, body: object = None) -> Answer:
            return await ask(address, method, path, body, authorization=f"Bearer {key}")

        response = (await sent("alice", "POST", PATH, {"input": "hello"})).json
        reference = {"type": "item_reference", "id": response["output"][0]["id"]}
        continued = {"input": "x", "previous_response_id": response["id"]}
        assert (await sent("alice", "GET", f"{PATH}/{response['id']}")).status == 200
        for method, path, body in (
            ("GET", f"{PATH}/{response['id']}", None),
            ("DELETE", f"{PATH}/{response['id']}", None),
            ("POST", PATH, continued),
            ("POST", PATH, {"input": [reference, {"role": "user", "content": "x"}]}),
        ):
            answer = await sent("mallory", method, path, body)
            assert (answer.status, answer.json["error"]["code"]) == (404, "session_not_found")
        assert (await sent("alice", "POST", PATH, continued)).headers["x-roost-match"] == "continued"


async def test_a_failed_stream_has_a_failed_response_and_no_end(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(hang_after=2), **HTTP) as w:
        connection = await Connection.to(w.gateway.http_address)
        await connection.send("POST", PATH, json.dumps({"input": "hello", "stream": True}).encode())
        await connection.head()
        await connection.until(b"output_text.delta")
        await w.gateway.stop(0.0)
        answer = await connection.end()
        await connection.close()
        assert not answer.is_complete
        last = answer.data[-1]
        assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
        assert last["response"]["error"]["code"] == "worker_draining"


async def test_codex_leaves_after_the_last_event_and_nothing_is_cancelled(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        connection = await Connection.to(w.gateway.http_address)
        await connection.send("POST", PATH, json.dumps({"input": "hello", "stream": True}).encode())
        await connection.head()
        await connection.until(b'"response.completed"')
        await connection.close()
        await w.worker.until(lambda: w.worker.commits)
        assert not w.worker.cancels


async def test_malformed_bodies_are_refused_in_the_apis_form(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        w.worker.script.refuse = Reason.INVALID_REQUEST  # what a gateway accepts goes no further
        items = [
            {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"type": "function_call", "call_id": "c", "name": "read", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
        ]
        tools = [{"type": "function", "name": "read", "parameters": {}}]
        body = {"input": items, "model": "null", "tools": tools, "text": {"format": None}, "temperature": 1.0}
        for path in places(body):
            for value in (None, 7, -1.5, "x", "\ud800", [7], {"type": "x"}, float("nan")):
                raw = json.dumps(replaced(body, path, value)).encode()
                answer = await ask(w.gateway.http_address, "POST", PATH, raw)
                assert answer.status in (400, 404), (path, value, answer.body)
                assert answer.json["error"].keys() == {"message", "type", "param", "code"}
