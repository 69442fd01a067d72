"""Scripts on a shared connection: what goes there, what does not, and what the options of the store's URL mean."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.connection import HiredisRespSerializer
from redis.exceptions import ResponseError

from redis_servers import PATIENCE_SECONDS, RedisServer
from roost.store.link import open_client
from roost.store.records import StoreAwayError
from roost.store.redis_store import RedisStore, connect
from roost.store.script_runners import LONG_BYTES, SharedScriptRunner
from store_driver import new_session

ECHO = "return ARGV[1]"
ARGUMENTS = st.text() | st.binary() | st.integers() | st.floats(allow_nan=False)


def client_of(url: str) -> Redis:
    client = open_client(url, socket_timeout=PATIENCE_SECONDS, connections=4)
    assert isinstance(client, Redis)
    return client


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with client_of(redis_server.url) as client:
        yield client


async def occupied(client: Redis, scripts: SharedScriptRunner) -> "asyncio.Task[object]":
    """A call on the shared connection that is answered when something is pushed to the list."""
    command = b"".join(HiredisRespSerializer().pack("BLPOP", "list", 0))
    call = asyncio.create_task(scripts._shared.call(command))
    while not (await client.info("clients"))["blocked_clients"]:
        pass
    return call


@given(st.lists(ARGUMENTS, max_size=8))
def test_commands_are_written_as_the_client_library_writes_them(arguments) -> None:
    command = ("EVALSHA", "0" * 40, len(arguments), *arguments)
    assert b"".join(HiredisRespSerializer().pack(*command)) == b"".join(Connection().pack_command(*command))


async def test_a_long_command_does_not_wait_behind_others_nor_others_behind_it(client: Redis) -> None:
    scripts, sha = SharedScriptRunner(client), await client.script_load(ECHO)
    call = await occupied(client, scripts)
    text = "x" * LONG_BYTES
    assert await scripts.evalsha(sha, 0, text) == text.encode()
    short = asyncio.create_task(scripts.evalsha(sha, 0, "short"))
    await client.ping()
    assert not short.done()
    await client.rpush("list", "x")
    assert await short == b"short"
    await call
    await scripts.aclose()


async def test_a_script_with_a_long_reply_holds_up_no_other(fresh: RedisStore) -> None:
    link = fresh._link
    session_id = (await fresh.open(new_session())).session_id
    assert isinstance(link.script_runner, SharedScriptRunner)
    call = await occupied(link.client, link.script_runner)
    assert await fresh.log(session_id, 1, 0, 1) == []
    assert not call.done()
    await link.run("RPUSH", "list", "x")
    await call


async def test_a_script_that_waits_when_the_store_is_closed_finds_it_away(
    redis_server: RedisServer, client: Redis
) -> None:
    store = await connect(redis_server.url, socket_timeout=PATIENCE_SECONDS, grace_ms=0)
    assert isinstance(store._link.script_runner, SharedScriptRunner)
    call = await occupied(client, store._link.script_runner)
    opened = asyncio.create_task(store.open(new_session()))
    await asyncio.sleep(0)
    await store.aclose()
    with pytest.raises(StoreAwayError):
        await opened
    await asyncio.gather(call, return_exceptions=True)


async def test_a_script_runs_in_the_database_and_with_the_rights_of_the_url(redis_server: RedisServer) -> None:
    with redis_server.client() as raw:
        raw.acl_setuser("gateway", enabled=True, passwords=["+pw"], keys=["ours"], commands=["+@all"])
        sha = raw.script_load("return redis.call('SET', KEYS[1], 'x')")
        async with client_of(redis_server.url.replace("//", "//gateway:pw@") + "/3") as client:
            scripts = SharedScriptRunner(client)
            await scripts.evalsha(sha, 1, "ours")
            with pytest.raises(ResponseError):
                await scripts.evalsha(sha, 1, "theirs")
            assert await client.get("ours") == b"x"
            await scripts.aclose()
        assert not raw.exists("ours"), "not in database 0"
        raw.acl_deluser("gateway")


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://h:1", Connection),
        ("rediss://h:1", SSLConnection),
        ("unix:///s", UnixDomainSocketConnection),
    ],
)
async def test_the_shared_connection_is_of_the_kind_of_the_url(url: str, kind: type) -> None:
    async with client_of(url) as client:
        assert type(SharedScriptRunner(client).new_connection()) is kind
