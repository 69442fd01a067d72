"""What happens when Redis dies, restarts, is full, misconfigured, or loses a reply."""

import asyncio
import dataclasses

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from redis_servers import RedisCluster, RedisServer
from roost.contract.names import PoolKeys
from roost_gateway.store import health
from roost_gateway.store.records import Refusal, RefusedError, RenewItem, StoreUnavailableError
from roost_gateway.store.redis_store import RedisStore, connect
from roost_worker.server.lease import LeasePublisher
from store_driver import LONG_MS, POOL, TENANT, begin_request, commit_request, lease, new_session, publish, reservation

KEYS = PoolKeys(POOL)


async def begun(store: RedisStore, **fields):
    session_id = (await store.open(new_session())).session_id
    return await store.begin(begin_request(session_id, **fields))


async def refused(call) -> Refusal:
    with pytest.raises(RefusedError) as caught:
        await call
    return caught.value.refusal


@pytest.fixture
async def fresh(fresh_redis):
    store = await connect(fresh_redis.url, grace_ms=0)
    yield store
    await store.aclose()


async def test_what_was_committed_survives_sigkill(fresh, fresh_redis):
    began = await begun(fresh)
    session_id = began.descriptor.session_id
    entry = await fresh.commit(commit_request(session_id, began.ref, "step-1"))
    live = await fresh.begin(begin_request(session_id, "step-2"))
    before = await fresh.get(session_id, TENANT)
    fresh_redis.restart()
    after = await fresh.get(session_id, TENANT)
    still = dataclasses.replace(after.attempt, lease_ms_left=before.attempt.lease_ms_left)
    assert dataclasses.replace(after, attempt=still) == before
    assert await fresh.log(session_id, 1, 0, 9) == [entry]
    request = commit_request(session_id, live.ref, "step-2", entry.head)
    assert (await fresh.commit(request)).index == 1


async def test_calls_fail_as_unavailable_while_redis_is_away(fresh, fresh_redis):
    began = await begun(fresh)
    fresh_redis.kill()
    for call in (
        fresh.begin(begin_request(began.descriptor.session_id)),
        fresh.commit(commit_request(began.descriptor.session_id, began.ref, "step-1")),
        fresh.workers(POOL),
        fresh.pools(),
        fresh.health(),
    ):
        with pytest.raises(StoreUnavailableError, match="does not answer"):
            await call
    fresh_redis.start()
    assert (await fresh.commit(commit_request(began.descriptor.session_id, began.ref, "step-1"))).index == 0


async def test_connecting_to_nothing_names_the_address_and_hides_the_password():
    with pytest.raises(StoreUnavailableError, match=r"redis://user:\*\*\*@127.0.0.1:1 does not answer"):
        await connect("redis://user:secret@127.0.0.1:1")
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        await connect("redis://127.0.0.1:1?cluster=true")


async def test_a_primary_that_became_a_replica_is_unavailable(fresh, fresh_redis):
    began = await begun(fresh)
    with fresh_redis.client() as raw:
        raw.execute_command("REPLICAOF", "127.0.0.1", "1")
    for call in (
        fresh.commit(commit_request(began.descriptor.session_id, began.ref, "step-1")),
        fresh.open(new_session()),
    ):
        with pytest.raises(StoreUnavailableError, match=r"read only|READONLY"):
            await call
    assert (await fresh.get(began.descriptor.session_id, TENANT)).steps == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1", "127.0.0.1:6379", "unix:///tmp/x?cluster=true"])
async def test_another_url_is_refused(url):
    with pytest.raises(ValueError, match="redis://"):
        await connect(url)


async def test_a_unix_socket_serves_as_well(fresh_redis):
    store = await connect(fresh_redis.unix_url)
    assert (await begun(store)).ref.epoch == 1
    await store.aclose()


async def test_a_wrong_password_is_named(fresh_redis):
    with fresh_redis.client() as raw:
        raw.config_set("requirepass", "right")
        with pytest.raises(StoreUnavailableError, match="ACL"):
            await connect(fresh_redis.url)
        store = await connect(fresh_redis.url.replace("//", "//:right@"))
        await store.aclose()


async def test_after_redis_was_away_nobody_expires_leases(fresh_redis):
    store = await connect(fresh_redis.url, grace_ms=LONG_MS)
    with fresh_redis.client() as raw:
        publish(raw, lease("w1"), ms=LONG_MS)
        publish(raw, lease("w2"), ms=LONG_MS)
        began = await begun(store, lease_ms=0)
        session_id = began.descriptor.session_id
        assert await store.reserve(reservation(began, lease_ms=0))
        assert len(await store.workers(POOL)) == 2
        assert not store.grace
        fresh_redis.kill()
        with pytest.raises(StoreUnavailableError):
            await store.workers(POOL)
        fresh_redis.start()
        publish(raw, lease("w1"), ms=-1)
        raw.delete(KEYS.workers)
        views = await store.workers(POOL)
        assert store.grace
        assert {view.lease.worker_id for view in views} == {"w1", "w2"}
        for call in (
            store.begin(begin_request(session_id, "step-2")),
            store.evict(session_id, TENANT),
            store.delete(session_id, TENANT),
        ):
            assert await refused(call) == Refusal.BUSY
        publish(raw, lease("w1"), ms=-1)
        assert await store.reserve(reservation(await begun(store), "w1"))
        assert raw.hlen(KEYS.reservations) == 2
    await store.aclose()


async def test_a_restart_that_no_call_noticed_is_seen_by_the_forgotten_scripts(fresh_redis):
    store = await connect(fresh_redis.url, grace_ms=LONG_MS)
    began = await begun(store, lease_ms=0)
    fresh_redis.restart()
    assert await refused(store.begin(begin_request(began.descriptor.session_id, "step-2"))) == Refusal.BUSY
    assert store.grace
    await store.aclose()


async def test_a_changed_run_id_begins_the_grace(fresh_redis):
    store = await connect(fresh_redis.url, grace_ms=LONG_MS)
    before = await store.health()
    fresh_redis.restart()
    after = await store.health()
    assert before.run_id != after.run_id
    assert store.grace
    await store.aclose()


async def test_a_cluster_survives_the_death_of_all_its_shards():
    with RedisCluster() as cluster:
        store = await connect(cluster.url, grace_ms=LONG_MS)
        assert (await store.health()).durable
        began = await begun(store)
        cluster.kill()
        with pytest.raises(StoreUnavailableError):
            await store.pools()
        cluster.start()
        entry = await store.commit(commit_request(began.descriptor.session_id, began.ref, "step-1"))
        assert store.grace
        assert await store.log(began.descriptor.session_id, 1, 0, 1) == [entry]
        assert len((await store.health()).run_id.split(",")) == 3
        await store.aclose()


async def test_health_finds_nothing_wrong_with_a_durable_redis(fresh):
    assert await fresh.health() == dataclasses.replace(await fresh.health(), durable=True, problems=())


@pytest.mark.parametrize(
    ("setting", "value", "durable"),
    [("appendonly", "no", False), ("appendfsync", "everysec", False), ("maxmemory-policy", "allkeys-lru", True)],
)
async def test_health_names_each_setting_that_loses_sessions_and_its_fix(fresh, fresh_redis, setting, value, durable):
    with fresh_redis.client() as raw:
        raw.config_set(setting, value)
    found = await fresh.health()
    assert found.durable == durable
    assert len(found.problems) == 1
    assert f"set {setting} {health.WANTED[setting]}" in found.problems[0]


async def test_a_redis_that_hides_its_settings_is_trusted_and_that_is_said(fresh_redis):
    with fresh_redis.client() as raw:
        raw.acl_setuser(
            "managed", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all", "-config"]
        )
    store = await connect(fresh_redis.url.replace("//", "//managed:pw@"))
    found = await store.health()
    assert found.durable
    assert "appendfsync always" in found.problems[0]
    assert (await begun(store)).ref.epoch == 1
    await store.aclose()


async def test_above_the_watermark_no_session_is_opened_but_steps_go_on(fresh, fresh_redis):
    began = await begun(fresh)
    with fresh_redis.client() as raw:
        raw.config_set("maxmemory", raw.info("memory")["used_memory"] + 300_000)
        assert (await fresh.open(new_session())).epoch == 0
        raw.config_set("maxmemory", int(raw.info("memory")["used_memory"] / 0.95))
    assert await refused(fresh.open(new_session())) == Refusal.STORE_FULL
    await fresh.commit(commit_request(began.descriptor.session_id, began.ref, "step-1"))
    assert (await fresh.begin(begin_request(began.descriptor.session_id, "step-2"))).ref.epoch == 2


async def test_at_the_hard_limit_what_was_admitted_still_ends(fresh, fresh_redis):
    publisher = lease("w1")
    sessions = [await begun(fresh) for _ in range(4)]
    with fresh_redis.client() as raw:
        publish(raw, publisher)
        raw.config_set("maxmemory", 1)
    one, two, three, four = (began.descriptor.session_id for began in sessions)
    assert await fresh.reserve(reservation(sessions[0]))
    assert not await fresh.reserve(reservation(sessions[1], tokens=10_000))
    assert await fresh.renew(POOL, [RenewItem(one, sessions[0].ref)], LONG_MS) == [True]
    assert (await fresh.commit(commit_request(one, sessions[0].ref, "step-1"))).index == 0
    await fresh.release(reservation(sessions[1]))
    await fresh.abort(two, sessions[1].ref)
    assert await refused(fresh.begin(begin_request(two, "step-2"))) == Refusal.STORE_FULL
    assert await refused(fresh.open(new_session())) == Refusal.STORE_FULL
    await fresh.renew(POOL, [RenewItem(three, sessions[2].ref), RenewItem(four, sessions[3].ref)], 0)
    await fresh.evict(three, TENANT)
    await fresh.close(three, TENANT)
    await fresh.delete(four, TENANT)


class LossyProxy:
    """Passes bytes on to a Redis; when told, cuts the connection instead of passing a script's next reply."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.lost = 0
        self._armed = False
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "LossyProxy":
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._listener.wait_closed()

    def lose_next_reply(self) -> None:
        self._armed = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        up = asyncio.create_task(self._pass(reader, up_writer, lossy=False))
        down = asyncio.create_task(self._pass(up_reader, writer, lossy=True))
        _, pending = await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        for end in (writer, up_writer):
            end.close()
            await end.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lossy: bool) -> None:
        while data := await reader.read(65536):
            if lossy and self._armed and not data.startswith(b"-NOSCRIPT"):
                self._armed, self.lost = False, self.lost + 1
                return
            writer.write(data)
            await writer.drain()


async def test_a_script_whose_reply_was_lost_is_sent_again_without_harm(fresh_redis):
    async with LossyProxy(fresh_redis) as proxy:
        store = await connect(proxy.url, grace_ms=0)
        with fresh_redis.client() as raw:
            publish(raw, lease("w1"))
        new = new_session(request_id="once")

        async def without_reply(call):
            proxy.lose_next_reply()
            return await call

        assert (await without_reply(store.open(new))).session_id == new.session_id
        began = await without_reply(store.begin(begin_request(new.session_id)))
        assert began.ref.epoch == 1
        assert await without_reply(store.reserve(reservation(began)))
        assert (await without_reply(store.commit(commit_request(new.session_id, began.ref, "step-1")))).index == 0
        second = await store.begin(begin_request(new.session_id, "step-2"))
        await without_reply(store.abort(new.session_id, second.ref))
        assert (await without_reply(store.hold(new.session_id, TENANT, "grep", 1, None))).hold.tool == "grep"
        descriptor, epoch = await without_reply(store.evict(new.session_id, TENANT))
        assert epoch == descriptor.epoch == 3
        assert (await without_reply(store.close(new.session_id, TENANT))).steps == 1
        assert await without_reply(store.delete(new.session_id, TENANT)) == 4
        assert proxy.lost == 9
        await store.aclose()


def content(raw) -> dict:
    """Everything in Redis."""
    keys = list(raw.scan_iter())
    read = {b"hash": raw.hgetall, b"string": raw.get, b"list": lambda k: raw.lrange(k, 0, -1)}
    return {key: read.get(raw.type(key), lambda k: raw.zrange(k, 0, -1, withscores=True))(key) for key in keys}


async def test_scripts_that_are_sent_again_much_later_change_nothing(fresh, fresh_redis):
    sent = []
    send = fresh._link.client.evalsha

    async def recorded(*arguments):
        sent.append(arguments)
        return await send(*arguments)

    fresh._link.client.evalsha = recorded
    with fresh_redis.client() as raw:
        publish(raw, lease("w1"))
        session_id = (await fresh.open(new_session(request_id="once"))).session_id
        first = await fresh.begin(begin_request(session_id))
        await fresh.reserve(reservation(first))
        await fresh.commit(commit_request(session_id, first.ref, "step-1"))
        aborted = await fresh.begin(begin_request(session_id, "step-2"))
        await fresh.release(reservation(aborted))
        await fresh.abort(session_id, aborted.ref)
        gone = await begun(fresh, lease_ms=0)
        await fresh.delete(gone.descriptor.session_id, TENANT)
        await fresh.hold(session_id, TENANT, "grep", 1, None)
        live = await fresh.begin(begin_request(session_id, "step-3"))
        assert live.reserved == "w1"
        before = content(raw)
        assert len(sent) == 13
        for arguments in sent:
            await send(*arguments)
        assert content(raw) == before
        await fresh.abort(session_id, live.ref)
        sent.clear()
        _, epoch = await fresh.evict(session_id, TENANT)
        assert (await fresh.begin(begin_request(session_id, "step-3"))).ref.epoch == epoch + 1
        assert (await send(*sent[0]))[3] == epoch


async def test_a_worker_may_write_leases_and_read_no_log(fresh, fresh_redis):
    began = await begun(fresh)
    session_id = began.descriptor.session_id
    await fresh.commit(commit_request(session_id, began.ref, "step-1"))
    with fresh_redis.client() as raw:
        raw.execute_command("ACL SETUSER worker on >pw ~roost:{*}:w ~roost:{*}:w:* resetchannels +@all")
    url = fresh_redis.url.replace("//", "//worker:pw@")
    publisher = LeasePublisher(url, POOL, "w1", lambda: lease("w1"), lambda: {session_id: 5})
    assert await publisher.publish()
    assert [view.lease for view in await fresh.workers(POOL)] == [lease("w1")]
    assert await fresh.residency(POOL, ["w1"], [session_id]) == {session_id: ("w1", 5)}
    with Redis.from_url(url) as worker:
        for command in (
            ("HGETALL", KEYS.session(session_id)),
            ("LRANGE", KEYS.log(session_id, 1), 0, -1),
            ("GETRANGE", KEYS.ids(session_id, 1), 0, -1),
            ("HGETALL", KEYS.steps(session_id)),
            ("HSET", KEYS.reservations, "x", "1:1"),
            ("SET", KEYS.document, "{}"),
            ("ZRANGE", KEYS.tenant_sessions(TENANT), 0, -1),
            ("EVAL", "return redis.call('HGETALL', KEYS[1])", 1, KEYS.session(session_id)),
            ("EVAL", "return redis.call('HGETALL', ARGV[1])", 0, KEYS.session(session_id)),
            ("PUBLISH", KEYS.wake, ""),
        ):
            with pytest.raises((NoPermissionError, ResponseError), match=r"perm|can't"):
                worker.execute_command(*command)
    await publisher.withdraw()
    assert await fresh.workers(POOL) == []
    await publisher.aclose()
