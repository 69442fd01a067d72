"""Responses with `background: true` in conversations that clients have created."""

from detached_driver import HTTP, OVER, TEXT, create, go_on, status
from gateway_driver import POOL, world
from kept_client import Client, user
from null_script import Script
from redis_servers import RedisServer
from roost.store.keys import PoolKeys
from roost_gateway.front.http.ids import name_of


async def test_a_background_response_continues_its_conversation(redis_server: RedisServer) -> None:
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        await client.create(user("one"))
        begun = (await create(w.gateway, "two", conversation=client.id)).json
        completed = await status(w.gateway, begun, "completed")
        assert completed["conversation"] == {"id": client.id}
        assert await client.said() == ["user: one", "user: two", f"assistant: {TEXT}"]
        assert (await client.respond("three")).headers["x-roost-match"] == "continued"


async def test_a_gateway_that_takes_a_response_over_continues_its_conversation(redis_server: RedisServer) -> None:
    async with world(redis_server, Script(hang_after=2), **HTTP) as w:
        dying, client = await w.rig.gateway(**HTTP), Client(w)
        await client.create(user("one"))
        begun = (await create(dying, "two", conversation=client.id)).json
        await dying.stop(0.0)
        go_on(w)
        await status(w.gateway, begun, "completed")
        assert await client.said() == ["user: one", "user: two", f"assistant: {TEXT}"]


async def test_a_response_that_is_taken_over_after_the_next_one_has_come_is_completed(
    redis_server: RedisServer,
) -> None:
    """Its gateway has moved the conversation on, and died before it could say that the response has ended."""
    async with world(redis_server, **HTTP) as w:
        client = Client(w)
        await client.create()
        first = (await create(w.gateway, "one", conversation=client.id)).json
        await status(w.gateway, first, "completed")
        name = name_of(first["id"])
        assert name is not None
        with w.rig.redis.client() as raw:
            key = PoolKeys(POOL).detached(name.session_id, name.step_id).record
            raw.hset(key, mapping={"state": "in_progress", "expiry": 0})
        assert (await client.respond("two")).status == 200
        assert (await status(w.gateway, first, *OVER))["status"] == "completed"
        assert await client.said() == ["user: one", f"assistant: {TEXT}", "user: two", f"assistant: {TEXT}"]
