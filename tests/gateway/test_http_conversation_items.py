"""The items of /v1/conversations: from the logs of their responses, and those that wait."""

from dataclasses import replace
from typing import Any

import pytest

from gateway_driver import world
from kept_client import HTTP, PATH, RESPONSES, Client, said, user
from null_script import BASE_ID, Script, token_text
from redis_servers import RedisServer
from roost_gateway.front.http import conversation_items
from roost_gateway.front.http.ids import name_of

TEXT = "".join(token_text(BASE_ID + number) for number in range(8))


async def test_items_of_responses_have_the_ids_that_the_responses_gave_them(redis_server: RedisServer) -> None:
    script = Script(calls=(("read", '{"path": "a"}'),), reasoning="Hm.")
    async with world(redis_server, script, **HTTP) as w:
        client = Client(w)
        await client.create()
        given = (await client.respond("hello")).json["output"]
        call = next(item for item in given if item["type"] == "function_call")
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "one"}
        given += (await client.respond([output])).json["output"]
        items = await client.items()
        assert [item for item in items if item["id"] in {each["id"] for each in given}] == given
        assert await client.said() == [
            "user: hello",
            *map(said, given[: len(given) // 2]),
            "output: one",
            *map(said, given[len(given) // 2 :]),
        ]
        for item in items:
            assert await client.sent("GET", f"{PATH}/{client.id}/items/{item['id']}") == item
        reference = {"type": "item_reference", "id": items[0]["id"]}
        assert (await client.send("POST", RESPONSES, {"input": [reference]})).status == 404


async def test_items_that_a_client_adds_wait_for_the_next_response(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        await client.create(user("one"))
        await client.respond("two")
        call = {"type": "function_call", "call_id": "c1", "name": "read", "arguments": "{}"}
        new = [{"type": "reasoning", "id": "rs_1", "summary": []}, call, {**call, "call_id": "c2"}]
        new += [{"type": "function_call_output", "call_id": name, "output": name} for name in ("c1", "c2")]
        added = (await client.sent("POST", f"{PATH}/{client.id}/items", {"items": new}))["data"]
        waiting = ["call: read{}", "call: read{}", "output: c1", "output: c2"]
        assert [said(item) for item in added] == waiting
        assert (await client.said())[3:] == waiting
        assert await client.sent("GET", f"{PATH}/{client.id}/items/{added[2]['id']}") == added[2]
        await client.respond("three")
        taken = w.worker.starts[-1].messages
        assert [(len(message.tool_calls), message.content) for message in taken] == [
            (2, ""),
            (0, "c1"),
            (0, "c2"),
            (0, "three"),
        ]
        assert (await client.said())[3:] == [*waiting, "user: three", f"assistant: {TEXT}"]
        missing = await client.send("GET", f"{PATH}/{client.id}/items/{added[2]['id']}")
        assert (missing.status, missing.json["error"]["code"]) == (404, "session_not_found")


async def test_what_the_assistant_says_last_in_the_input_is_dropped_and_what_waits_is_not(
    redis_server: RedisServer,
) -> None:
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        written = {"role": "assistant", "content": "Hello."}
        await client.create(user("hello"), written)
        assert (await client.respond([written])).status == 400, "nobody has said anything to answer"
        assert await client.said() == ["user: hello", "assistant: Hello."]
        await client.respond([user("one"), written])
        assert (await client.said())[:3] == ["user: hello", "assistant: Hello.", "user: one"]
        assert [message.content for message in w.worker.starts[-1].messages] == ["hello", "Hello.", "one"]


async def test_an_item_is_deleted_while_it_waits_only(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        created = await client.create(user("one"), user("two"))
        first, second = await client.items()
        assert await client.sent("DELETE", f"{PATH}/{client.id}/items/{second['id']}") == created
        assert await client.said() == ["user: one"]
        assert (await client.send("DELETE", f"{PATH}/{client.id}/items/{second['id']}")).status == 404
        await client.respond("three")
        gone = await client.send("DELETE", f"{PATH}/{client.id}/items/{first['id']}")
        assert (gone.status, "a response has taken it" in gone.json["error"]["message"]) == (404, True)
        logged = (await client.items())[0]
        refused = await client.send("DELETE", f"{PATH}/{client.id}/items/{logged['id']}")
        assert (refused.status, refused.json["error"]["param"]) == (400, "item_id")
        assert "create a conversation without the item" in refused.json["error"]["message"]
        assert (await client.send("DELETE", f"{PATH}/{client.id}/items/msg_1")).status == 404


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_pages_of_items_are_the_whole_list_in_either_order(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, order: str, limit: int
) -> None:
    monkeypatch.setattr(conversation_items, "_STEPS_READ", 2)
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        await client.create()
        for number in range(5):
            await client.respond(f"question {number}")
        await client.sent("POST", f"{PATH}/{client.id}/items", {"items": [user("a"), user("b")]})
        whole, paged, after, has_more = await client.items(), list[Any](), "", True
        assert len(whole) == 12
        while has_more:
            page = await client.sent("GET", f"{PATH}/{client.id}/items?limit={limit}&order={order}{after}")
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
            paged, after, has_more = [*paged, *page["data"]], f"&after={page['last_id']}", page["has_more"]
        assert paged == (whole if order == "asc" else whole[::-1])


async def test_other_instructions_go_on_in_a_session_that_has_the_history(redis_server: RedisServer) -> None:
    """As agents that hand a conversation over do."""
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        await client.create()
        await client.respond("one", instructions="Be brief.")
        answer = await client.respond("two", instructions="Be kind.")
        assert answer.headers["x-roost-match"] == "imported"
        await client.respond("three", instructions="Be kind.")
        texts = [text for name in ("one", "two", "three") for text in (f"user: {name}", f"assistant: {TEXT}")]
        assert await client.said() == texts


async def test_items_of_a_fork_are_those_of_both_sessions(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        await client.create()
        first = (await client.respond("one")).json
        other = await client.send("POST", RESPONSES, {"input": "aside", "previous_response_id": first["id"]})
        assert other.headers["x-roost-match"] == "continued"
        aside = other.json["output"][0]["id"]
        assert (await client.send("GET", f"{PATH}/{client.id}/items/{aside}")).status == 404
        assert (await client.respond("two")).headers["x-roost-match"] == "forked"
        items = await client.items()
        assert list(map(said, items)) == ["user: one", f"assistant: {TEXT}", "user: two", f"assistant: {TEXT}"]
        assert await client.sent("GET", f"{PATH}/{client.id}/items/{items[0]['id']}") == items[0]
        assert await client.items(f"?order=asc&after={items[0]['id']}") == items[1:]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=msg_1"])
async def test_a_list_that_cannot_be_made_is_refused_by_name(redis_server: RedisServer, query: str) -> None:
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        await client.create(user("one"))
        await client.respond("two")
        answer = await client.send("GET", f"{PATH}/{client.id}/items?{query}")
        assert answer.status == (404 if "after" in query else 400)
        assert query.partition("=")[0 if "after" not in query else 2] in answer.json["error"]["message"]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_list_after_an_item_that_its_response_does_not_have_is_refused(
    redis_server: RedisServer, order: str
) -> None:
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        await client.create(user("one"))
        await client.respond("two")
        name = name_of((await client.items())[0]["id"])
        assert name is not None
        after = replace(name, part=9).id("msg")
        answer = await client.send("GET", f"{PATH}/{client.id}/items?order={order}&after={after}")
        assert (answer.status, after in answer.json["error"]["message"]) == (404, True)
