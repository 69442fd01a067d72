"""Responses with `background: true` in conversations that clients have created."""

from detached_driver import HTTP, TEXT, create, go_on, status
from gateway_driver import world
from kept_client import Client, user
from null_script import Script
from redis_servers import RedisServer


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
