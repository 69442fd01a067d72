"""The Secrets that an installation draws: users of a real Redis who can do their work and no more."""

import asyncio
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.exceptions import NoPermissionError

from redis_servers import PATIENCE_SECONDS, RedisServer
from roost.store import redis_store
from roost.store.keys import PoolKeys
from roost_gateway.front.credentials import Authenticator
from roost_operator.install.drawn_secrets import api_keys_secret, pool_key_secret, store_secret
from roost_worker.server.lease import LeasePublisher
from store_driver import POOL, begin_request, commit_request, lease, new_session, reservation

KEYS = PoolKeys(POOL)
RAY_COMMANDS = (
    ("INFO", "CLUSTER"),
    ("DEL", "DUMMY"),
    ("PING",),
    ("HSET", "RAYuid@KV", "a", "1"),
    ("HSETNX", "RAYuid@KV", "b", "1"),
    ("HGET", "RAYuid@KV", "a"),
    ("HMGET", "RAYuid@KV", "a", "b"),
    ("HEXISTS", "RAYuid@KV", "a"),
    ("HSCAN", "RAYuid@KV", "0"),
    ("HDEL", "RAYuid@KV", "a"),
    ("INCRBY", "RAYuid@JobCounter", "1"),
    ("SCAN", "0", "MATCH", "RAYuid@*"),
    ("UNLINK", "RAYuid@KV"),
)


def drawing() -> Iterator[str]:
    return (f"drawn-{number:032d}" for number in itertools.count())


@pytest.fixture
def urls() -> Iterator[dict[str, str]]:
    server = RedisServer().start()
    draws = drawing()
    secret = store_secret(f"127.0.0.1:{server.port}", lambda: next(draws))
    client = server.client()
    try:
        for line in secret["users.acl"].splitlines()[1:]:
            _, *rules = line.split()
            client.execute_command("ACL SETUSER", *rules)
        yield secret
    finally:
        client.close()
        server.stop()


def refused(url: str, *command: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            client.execute_command(*command)
        except NoPermissionError:
            return True
        return False


async def test_a_gateway_keeps_sessions_and_judges_the_store(urls: dict[str, str]) -> None:
    store = await redis_store.connect(urls["gateway-url"])
    try:
        publisher = LeasePublisher(urls["worker-url"], POOL, "w1", lease, dict)
        assert await publisher.publish()
        assert [view.lease.worker_id for view in await store.workers(POOL)] == ["w1"]
        session = await store.open(new_session())
        began = await store.begin(begin_request(session.session_id))
        assert await store.reserve(reservation(began))
        await store.commit(commit_request(session.session_id, began.ref, "step-1"))
        assert (await store.get(session.session_id, "acme")).head.length == 5
        assert (await store.health()).durable
        async with asyncio.timeout(PATIENCE_SECONDS):
            wakes = store.wakes(POOL)
            waiting = asyncio.ensure_future(anext(wakes))
            while not waiting.done():
                second = await store.begin(begin_request(session.session_id, "step-2"))
                await store.abort(session.session_id, second.ref)
                await asyncio.wait([waiting], timeout=0.05)
        await publisher.withdraw()
        await publisher.aclose()
    finally:
        await store.aclose()


async def test_a_worker_reaches_leases_and_residency_and_runs_no_script(urls: dict[str, str]) -> None:
    publisher = LeasePublisher(urls["worker-url"], POOL, "w1", lease, lambda: {"session": 5})
    try:
        assert await publisher.publish()
    finally:
        await publisher.aclose()
    worker = urls["worker-url"]
    assert not refused(worker, "GET", KEYS.drain("w1"))
    for command in (
        ("GET", KEYS.document),
        ("HGETALL", f"{KEYS.prefix}:s:1"),
        ("LRANGE", f"{KEYS.prefix}:s:1:log:0", "0", "-1"),
        ("EVAL", "return redis.call('GET', KEYS[1])", "1", KEYS.document),
        ("EVAL", "return 1", "0"),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("CONFIG", "SET", "appendonly", "no"),
        ("PUBLISH", f"{KEYS.prefix}:wake", "x"),
    ):
        assert refused(worker, *command), command


@pytest.mark.parametrize("user", ["gateway", "operator"])
def test_writers_of_records_cannot_administer_redis(urls: dict[str, str], user: str) -> None:
    url = urls[f"{user}-url"]
    assert not refused(url, "SET", KEYS.document, "{}")
    assert not refused(url, "SADD", "roost:pools", POOL)
    for command in (("FLUSHALL",), ("CONFIG", "SET", "save", ""), ("SHUTDOWN",), ("ACL", "LIST"), ("GET", "other")):
        assert refused(url, *command), command


def test_a_head_of_ray_keeps_its_state_and_reaches_no_session(urls: dict[str, str]) -> None:
    """The commands that Ray 2.60 sends, by the statistics of a Redis that it used."""
    ray = urls["ray-url"]
    for command in RAY_COMMANDS:
        assert not refused(ray, *command), command
    for command in (
        ("GET", KEYS.document),
        ("SET", KEYS.drain("w1"), "1"),
        ("SADD", "roost:pools", POOL),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "save"),
        ("PUBLISH", f"{KEYS.prefix}:wake", "x"),
    ):
        assert refused(ray, *command), command
    for user in ("gateway", "operator", "worker"):
        assert refused(urls[f"{user}-url"], "HGETALL", "RAYuid@KV"), user


def test_the_default_user_is_off_and_no_password_is_in_the_acl_file() -> None:
    draws = drawing()
    secret = store_secret("redis:6379", lambda: next(draws))
    assert secret["users.acl"].splitlines()[0] == "user default off"
    assert "drawn-" not in secret["users.acl"]
    assert len({url.split("@")[0] for name, url in secret.items() if name.endswith("-url")}) == 4


def test_the_first_api_key_opens_all_pools(tmp_path: Path) -> None:
    secret = api_keys_secret(lambda: "x" * 43)
    file = tmp_path / "keys.yaml"
    file.write_text(secret["keys.yaml"])
    caller = Authenticator(file).identify([("authorization", f"Bearer {secret['first-key']}")])
    assert (caller.tenant, caller.may_use("any/pool")) == ("default", True)
    key = json.loads(secret["keys.yaml"])["keys"][0]
    assert key["sha256"] == hashlib.sha256(secret["first-key"].encode()).hexdigest()


def test_a_pool_key_is_what_was_drawn() -> None:
    assert pool_key_secret(lambda: "y" * 43) == {"key": "y" * 43}
