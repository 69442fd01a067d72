"""/v1/conversations through a whole gateway: what a client creates, and what its responses make of it."""

import json
from pathlib import Path

import pytest

from gateway_driver import publish_pool, world
from http_client import Connection, ask
from kept_client import HTTP, PATH, RESPONSES, Client, user
from malformed import places, replaced
from null_script import BASE_ID, Script, token_text
from redis_servers import RedisServer
from roost.contract.api_keys import hash_api_key
from roost.store.keys import kept_conversation
from roost_gateway.core import kept_conversations
from roost_gateway.core.caller import ANYONE, DEFAULT_TENANT

TEXT = "".join(token_text(BASE_ID + number) for number in range(8))


async def test_a_conversation_is_created_read_changed_and_deleted(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        created = await client.create(metadata={"topic": "roost"})
        assert created == {**created, "object": "conversation", "metadata": {"topic": "roost"}}
        assert await client.sent("GET", f"{PATH}/{client.id}") == created
        changed = await client.sent("POST", f"{PATH}/{client.id}", {"metadata": {"topic": "hen"}})
        assert changed == {**created, "metadata": {"topic": "hen"}}
        assert await client.sent("GET", f"{PATH}/{client.id}") == changed
        deleted = {"id": client.id, "object": "conversation.deleted", "deleted": True}
        assert await client.sent("DELETE", f"{PATH}/{client.id}") == deleted
        for method in ("GET", "DELETE"):
            assert (await client.send(method, f"{PATH}/{client.id}")).status == 404
        assert (await client.respond("hello")).json["error"]["code"] == "session_not_found"
        assert (await client.sent("POST", PATH, b""))["metadata"] == {}


@pytest.mark.parametrize("stream", [False, True])
async def test_responses_continue_a_conversation_without_its_history(redis_server: RedisServer, stream: bool) -> None:
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        await client.create({"role": "developer", "content": "Be brief."}, user("I am Zoë."))
        answers = [await client.respond(f"question {number}", stream=stream) for number in range(3)]
        assert [answer.headers["x-roost-match"] for answer in answers] == ["new", "continued", "continued"]
        assert [[message.content for message in start.messages] for start in w.worker.starts] == [
            ["I am Zoë.", "question 0"],
            ["question 1"],
            ["question 2"],
        ]
        assert {start.system for start in w.worker.starts} == {"Be brief."}
        response = answers[0].data[-1]["response"] if stream else answers[0].json
        assert response["conversation"] == {"id": client.id}
        questions = [text for number in range(3) for text in (f"user: question {number}", f"assistant: {TEXT}")]
        assert await client.said() == ["user: I am Zoë.", *questions]


async def test_a_retry_of_the_last_response_is_that_response(redis_server: RedisServer) -> None:
    retry = {"x-stainless-retry-count": "1"}
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        await client.create(user("I am Zoë."))
        for _ in range(2):
            first = (await client.respond("go on")).json
            again = await client.respond("go on", headers=retry)
            assert (again.json["id"], again.headers["x-roost-match"]) == (first["id"], "attached")
        assert len(w.worker.starts) == 2, "without the mark, the same words are said again"
        assert (await client.respond("another", headers=retry)).headers["x-roost-match"] == "continued"


async def test_of_two_responses_at_once_the_first_that_ends_continues_the_conversation(
    redis_server: RedisServer,
) -> None:
    async with world(redis_server, Script(hang_after=2), **HTTP) as w:
        client = Client(w)
        await client.create()
        connection = await Connection.to(client.address)
        body = {"input": "one", "conversation": client.id, "stream": True}
        await connection.send("POST", RESPONSES, json.dumps(body).encode())
        await connection.head()
        await connection.until(b"output_text.delta")
        w.worker.script.hang_after = None
        assert (await client.respond("two")).status == 200
        w.worker.resume_output.set()
        slow = await connection.end()
        await connection.close()
        error = slow.data[-1]["response"]["error"]
        assert (slow.is_complete, error["code"]) == (False, "another_step_running")
        assert "another response has continued the conversation" in error["message"]
        assert await client.said() == ["user: two", f"assistant: {TEXT}"]
        assert (await client.respond("one")).headers["x-roost-match"] == "continued"


async def test_a_conversation_that_is_deleted_while_a_response_is_written_stays_deleted(
    redis_server: RedisServer,
) -> None:
    async with world(redis_server, **HTTP) as w:
        client, kept = Client(w), w.gateway.life.conversations.kept
        await client.create()
        taken = await kept.get(client.id, ANYONE)
        await client.sent("DELETE", f"{PATH}/{client.id}")
        await kept.advance(taken, "default/null/s", "step", ANYONE, 60_000)
        assert (await client.send("GET", f"{PATH}/{client.id}")).status == 404


async def test_a_retry_is_a_new_response_where_the_session_before_the_last_has_expired(
    redis_server: RedisServer,
) -> None:
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        await client.create()
        first = await client.respond("one", instructions="Be brief.")
        await client.respond("two", instructions="Be kind.")
        await w.gateway.life.gateway.delete(first.headers["x-roost-session"], ANYONE)
        retry = {"x-stainless-retry-count": "1"}
        answer = await client.respond("three", instructions="Be kind.", headers=retry)
        assert (answer.status, answer.headers["x-roost-match"]) == (200, "continued")


async def test_what_is_added_while_a_response_is_written_waits_for_the_next(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        client, kept = Client(w), w.gateway.life.conversations.kept
        await client.create(user("one"))
        taken = await kept.get(client.id, ANYONE)
        await client.sent("POST", f"{PATH}/{client.id}/items", {"items": [user("two")]})
        await kept.advance(taken, "default/null/s", "step", ANYONE, 60_000)
        after = await kept.get(client.id, ANYONE)
        assert [message.content for message in after.messages] == ["two"]
        assert (after.next.step, after.former) == (("default/null/s", "step"), taken.next)


async def test_a_conversation_lives_as_long_as_its_session(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        publish_pool(redis_server, sessions={"idleTTLSeconds": 86400, "implicitTTLSeconds": 600})
        await w.gateway.life.fleet.pools.read_all()
        client = Client(w)
        await client.create()
        with redis_server.client() as redis:
            key = kept_conversation(DEFAULT_TENANT, client.id)
            assert 590_000 < redis.pttl(key) <= 600_000
            redis.pexpire(key, 100_000)
            await client.sent("POST", f"{PATH}/{client.id}", {"metadata": {"a": "b"}})
            assert redis.pttl(key) <= 100_000, "its session lives no longer for that"
            await client.respond("hello")
            assert 590_000 < redis.pttl(key) <= 600_000


async def test_a_name_that_a_client_made_up_still_names_its_conversation_only(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        client = Client(w, "conv_68542dc602388199a30af27d040cefd4087a04b576bfeb24")
        assert [(await client.respond(text)).headers["x-roost-match"] for text in ("one", "two")] == ["new", "new"]
        await client.create()
        response = (await client.respond("one")).json
        both = await client.respond("two", previous_response_id=response["id"])
        assert (both.status, both.json["error"]["param"]) == (400, "previous_response_id")


async def test_a_conversation_is_bounded(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        await client.create()
        path = f"{PATH}/{client.id}/items"
        assert (await client.send("POST", path, {"items": [user("x")] * 21})).status == 400
        assert (await client.send("POST", path, {"items": []})).status == 400
        monkeypatch.setattr(kept_conversations, "MAX_WAITING_MESSAGES", 3)
        await client.sent("POST", path, {"items": [user("x")] * 3})
        full = await client.send("POST", path, {"items": [user("y")]})
        assert (full.status, full.json["error"]["param"]) == (400, "items")
        monkeypatch.setattr(kept_conversations, "MAX_BYTES", 1000)
        assert (await client.send("POST", PATH, {"items": [user("x" * 1000)]})).status == 400
        for metadata in ({str(number): "x" for number in range(17)}, {"x" * 65: ""}, {"x": "y" * 513}, {"x": 1}):
            assert (await client.send("POST", PATH, {"metadata": metadata})).status == 400
        reference = {"type": "item_reference", "id": "msg_1"}
        refused = await client.send("POST", PATH, {"items": [user("x"), reference]})
        assert refused.json["error"]["message"].endswith("items[1]: is a reference; send the item itself")


async def test_another_tenants_conversation_does_not_exist(redis_server: RedisServer, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    entries = [
        {"id": name, "sha256": hash_api_key(name), "tenant": name, "pools": ["*"]} for name in ("alice", "mallory")
    ]
    keys.write_text(json.dumps({"keys": entries}))
    async with world(redis_server, **HTTP, api_keys_file=keys) as w:
        client = Client(w)
        alice, mallory = ({"authorization": f"Bearer {name}"} for name in ("alice", "mallory"))
        created = await client.send("POST", PATH, {"items": [user("secret")]}, **alice)
        path = f"{PATH}/{created.json['id']}"
        items = (await client.send("GET", f"{path}/items", **alice)).json["data"]
        for method, where, body in (
            ("GET", path, None),
            ("POST", path, {"metadata": {}}),
            ("DELETE", path, None),
            ("GET", f"{path}/items", None),
            ("POST", f"{path}/items", {"items": [user("x")]}),
            ("GET", f"{path}/items/{items[0]['id']}", None),
            ("DELETE", f"{path}/items/{items[0]['id']}", None),
            ("POST", RESPONSES, {"input": "x", "conversation": created.json["id"]}),
        ):
            answer = await client.send(method, where, body, **mallory)
            assert (answer.status, answer.json["error"]["code"]) == (404, "session_not_found"), (method, where)
        assert (await client.send("GET", path, **alice)).json == created.json


async def test_malformed_bodies_are_refused_in_the_apis_form(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        body = {"items": [user("x")], "metadata": {"a": "b"}}
        for path in places(body):
            for value in (7, -1.5, "\ud800", [7], float("nan")):
                raw = json.dumps(replaced(body, path, value)).encode()
                answer = await ask(w.gateway.http_address, "POST", PATH, raw)
                assert answer.status == 400, (path, value, answer.body)
                assert answer.json["error"].keys() == {"message", "type", "param", "code"}
