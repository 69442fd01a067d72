"""The Redis of `roost up`: durable, private, and closed to what workers have no business with."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from roost.store.keys import PoolKeys
from roost_operator.local.ports import PortTakenError, free_port, require_free
from roost_operator.local.processes import Supervised
from roost_operator.local.redis import EmbeddedRedis
from roost_operator.local.state_dir import StateDirectory


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[EmbeddedRedis, Supervised]]:
    with StateDirectory(tmp_path / "state") as state:
        redis = EmbeddedRedis(state, "127.0.0.1", free_port("127.0.0.1"))
        process = Supervised(redis.command(), lambda event: None)
        await process.start()
        yield redis, process
        await process.stop()


async def test_what_was_answered_survives_a_kill(server: tuple[EmbeddedRedis, Supervised]) -> None:
    redis, process = server
    async with Redis.from_url(redis.url) as client:
        await client.set("a", "1")
    process.kill()
    await process.stop()
    again = Supervised(redis.command(), lambda event: None)
    await again.start()
    async with Redis.from_url(redis.url) as client:
        assert await client.get("a") == b"1"
        assert (await client.config_get("appendfsync"))["appendfsync"] == "always"
        assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
    await again.stop()


async def test_strangers_are_kept_out(server: tuple[EmbeddedRedis, Supervised]) -> None:
    redis, _ = server
    async with Redis(host=redis.host, port=redis.port) as client:
        with pytest.raises(AuthenticationError):
            await client.get("a")


async def test_workers_reach_leases_and_residency_only(server: tuple[EmbeddedRedis, Supervised]) -> None:
    redis, _ = server
    keys = PoolKeys("n/p")
    session = "n/p/" + "0" * 26
    async with Redis.from_url(redis.worker_url) as client:
        await client.zadd(keys.workers, {"w": 1})
        await client.set(keys.lease("w"), "{}")
        await client.hset(keys.residency("w"), session, "1")
        for key in (
            keys.session(session),
            keys.log(session, 1),
            keys.ids(session, 1),
            keys.document,
            keys.reservations,
        ):
            with pytest.raises(NoPermissionError):
                await client.get(key)
            with pytest.raises(NoPermissionError):
                await client.eval("return redis.call('GET', KEYS[1])", 1, key)
        with pytest.raises(NoPermissionError):
            await client.eval("return 1", 0)
        with pytest.raises(NoPermissionError):
            await client.flushall()


def test_a_taken_port_is_named_with_the_flag() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"port {port} on 127\.0\.0\.1 for gateway 1 .*--port"):
            require_free("127.0.0.1", port, "gateway 1", "give another one with --port")
    require_free("127.0.0.1", port, "gateway 1", "give another one with --port")
