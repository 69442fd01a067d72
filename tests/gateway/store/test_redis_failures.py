"""What happens when Redis dies, restarts, is full, misconfigured, or loses a reply."""

import asyncio
import contextlib
import dataclasses

import pytest

from redis_servers import RedisCluster, RedisServer
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store import health
from roost.store.keys import PoolKeys
from roost.store.link import WritesRefusedError, cancellation_kept
from roost.store.records import RenewItem, StoreAwayError
from roost.store.redis_store import RedisStore, connect
from roost.store.scripts import script
from store_driver import (
    LONG_MS,
    POOL,
    TENANT,
    begin_request,
    commit_request,
    lease,
    new_session,
    publish,
    reservation,
    reservations,
)

KEYS = PoolKeys(POOL)


async def begun(store: RedisStore, **fields):
    session_id = (await store.open(new_session())).session_id
    return await store.begin(begin_request(session_id, **fields))


async def refused(call) -> Reason:
    with pytest.raises(Refused) as caught:
        await call
    return caught.value.reason


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


async def test_a_call_that_is_cancelled_does_not_go_on(fresh):
    """In whichever turn of the event loop the cancellation comes: on Python 3.11 one is lost in the client library."""
    session_id = (await fresh.open(new_session())).session_id
    for turns in range(60):
        call = asyncio.create_task(fresh.get(session_id, TENANT))
        for _ in range(turns):
            await asyncio.sleep(0)
        asked = call.cancel()
        await asyncio.wait([call])
        assert call.cancelled() is asked, f"cancelled after {turns} turns, it went on"


async def test_an_error_does_not_take_the_place_of_a_cancellation():
    begun = asyncio.Event()

    async def call() -> None:
        with cancellation_kept():
            try:
                begun.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise StoreAwayError("as wait_for does when the command fails in the same turn") from None

    task = asyncio.create_task(call())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


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
        with pytest.raises(StoreAwayError, match="does not answer"):
            await call
    fresh_redis.start()
    assert (await fresh.commit(commit_request(began.descriptor.session_id, began.ref, "step-1"))).index == 0


async def test_connecting_to_nothing_names_the_address_and_hides_the_password():
    with pytest.raises(StoreAwayError, match=r"redis://user:\*\*\*@127.0.0.1:1 does not answer"):
        await connect("redis://user:secret@127.0.0.1:1")
    with pytest.raises(StoreAwayError, match="does not answer"):
        await connect("redis://127.0.0.1:1?cluster=true")


async def test_a_primary_that_became_a_replica_is_unavailable(fresh, fresh_redis):
    began = await begun(fresh)
    with fresh_redis.client() as raw:
        raw.execute_command("REPLICAOF", "127.0.0.1", "1")
    for call in (
        fresh.commit(commit_request(began.descriptor.session_id, began.ref, "step-1")),
        fresh.open(new_session()),
    ):
        with pytest.raises(StoreAwayError, match=r"refuses to write: it is a read-only replica"):
            await call
    assert (await fresh.get(began.descriptor.session_id, TENANT)).steps == 0


async def test_writes_that_wait_for_replicas_name_them(fresh, fresh_redis):
    with fresh_redis.client() as raw:
        raw.config_set("min-replicas-to-write", 1)
    with pytest.raises(WritesRefusedError, match="refuses to write: fewer replicas are connected"):
        await fresh.open(new_session())


async def test_a_disk_that_takes_no_snapshot_is_named(fresh, fresh_redis):
    fail_a_snapshot(fresh_redis)
    with pytest.raises(WritesRefusedError, match="refuses to write: it cannot write to its disk"):
        await fresh.open(new_session())


def fail_a_snapshot(server: RedisServer) -> None:
    """A folder of the snapshot's name takes the place of a full disk."""
    with server.client() as raw:
        (server.directory / raw.config_get("dbfilename")["dbfilename"]).mkdir()
        raw.config_set("save", "3600 1")
        raw.bgsave()
        while raw.info("persistence")["rdb_bgsave_in_progress"]:
            pass


async def test_who_waits_is_subscribed_again_after_a_restart(fresh, fresh_redis):
    with fresh_redis.client() as raw:
        async with contextlib.aclosing(fresh.wakes(POOL)) as wakes:
            for restarts in range(2):
                if restarts:
                    fresh_redis.restart()
                for _ in range(30):  # each at most a second
                    await anext(wakes)
                    if dict(raw.pubsub_numsub(KEYS.wake))[KEYS.wake.encode()]:
                        break
                else:
                    pytest.fail("nobody is subscribed")


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
        with pytest.raises(StoreAwayError, match="ACL"):
            await connect(fresh_redis.url)
        store = await connect(fresh_redis.url.replace("//", "//:right@"))
        await store.aclose()


async def test_the_call_that_finds_redis_back_expires_nobody(fresh_redis):
    store = await connect(fresh_redis.url, grace_ms=LONG_MS)
    began = await begun(store, lease_ms=0)
    fresh_redis.kill()
    with pytest.raises(StoreAwayError):
        await store.workers(POOL)
    fresh_redis.start()
    other = await connect(fresh_redis.url, grace_ms=0)
    await begun(other)  # Redis knows the script again, so that nothing but its absence tells that it was away
    again = begin_request(began.descriptor.session_id, "step-2")
    assert await refused(store.begin(again)) == Reason.ANOTHER_STEP_RUNNING
    await store.aclose()
    await other.aclose()


async def test_after_redis_was_away_nobody_expires_leases(fresh_redis):
    store = await connect(fresh_redis.url, grace_ms=LONG_MS)
    with fresh_redis.client() as raw:
        publish(raw, lease("w1"), ms=LONG_MS)
        publish(raw, lease("w2"), ms=LONG_MS)
        began = await begun(store, lease_ms=0)
        session_id = began.descriptor.session_id
        assert await store.reserve(reservation(began, lease_ms=0))
        assert len(await store.workers(POOL)) == 2
        assert not store.grace_seconds(POOL)
        fresh_redis.kill()
        with pytest.raises(StoreAwayError):
            await store.workers(POOL)
        fresh_redis.start()
        publish(raw, lease("w1"), ms=-1)
        raw.delete(KEYS.workers)
        views = await store.workers(POOL)
        assert store.grace_seconds(POOL)
        assert {view.lease.worker_id: view.ms_left for view in views} == {"w1": 0, "w2": 0}
        for call in (
            store.begin(begin_request(session_id, "step-2")),
            store.evict(session_id, TENANT),
            store.delete(session_id, TENANT),
        ):
            assert await refused(call) == Reason.ANOTHER_STEP_RUNNING
        publish(raw, lease("w1"), ms=-1)
        assert await store.reserve(reservation(await begun(store), "w1"))
        assert len(reservations(raw)) == 2
    await store.aclose()


async def test_a_restart_that_no_call_noticed_is_seen_by_the_forgotten_scripts(fresh_redis):
    store = await connect(fresh_redis.url, grace_ms=LONG_MS)
    began = await begun(store, lease_ms=0)
    fresh_redis.restart()
    again = begin_request(began.descriptor.session_id, "step-2")
    assert await refused(store.begin(again)) == Reason.ANOTHER_STEP_RUNNING
    assert store.grace_seconds(POOL)
    await store.aclose()


async def test_a_script_that_redis_forgot_while_it_ran_begins_no_grace(fresh_redis):
    store = await connect(fresh_redis.url, grace_ms=LONG_MS)
    await begun(store)
    with fresh_redis.client() as raw:
        raw.script_flush()
    await begun(store)
    assert not store.grace_seconds(POOL)
    await store.aclose()


async def test_scripts_of_others_do_not_displace_ours(fresh_redis):
    """Newer servers forget all but the last 500 that came by EVAL alone."""
    store = await connect(fresh_redis.url)
    await begun(store)
    with fresh_redis.client() as raw:
        for number in range(501):
            raw.eval(f"return {number}", 0)
        assert raw.script_exists(script("open").sha, script("begin").sha) == [True, True]
    await store.aclose()


async def test_a_changed_run_id_begins_the_grace(fresh_redis):
    store = await connect(fresh_redis.url, grace_ms=LONG_MS)
    before = await store.health()
    fresh_redis.restart()
    after = await store.health()
    assert before.run_id != after.run_id
    assert store.grace_seconds(POOL)
    await store.aclose()


async def test_a_cluster_survives_the_death_of_all_its_shards():
    with RedisCluster() as cluster:
        store = await connect(cluster.url, grace_ms=LONG_MS)
        assert (await store.health()).durable
        began = await begun(store)
        cluster.kill()
        with pytest.raises(StoreAwayError):
            await store.pools()
        cluster.start()
        entry = await store.commit(commit_request(began.descriptor.session_id, began.ref, "step-1"))
        assert store.grace_seconds(POOL)
        assert await store.log(began.descriptor.session_id, 1, 0, 1) == [entry]
        assert len((await store.health()).run_id.split(",")) == 3
        await store.aclose()


async def test_health_finds_nothing_wrong_with_a_durable_redis(fresh):
    health = await fresh.health()
    assert health == dataclasses.replace(health, durable=True, problems=())


@pytest.mark.parametrize(
    ("setting", "value", "durable"),
    [("appendonly", "no", False), ("appendfsync", "everysec", False), ("maxmemory-policy", "allkeys-lru", True)],
)
async def test_health_names_each_setting_that_loses_sessions_and_its_fix(fresh, fresh_redis, setting, value, durable):
    with fresh_redis.client() as raw:
        raw.config_set(setting, value)
    checked = await fresh.health()
    assert checked.durable == durable
    assert len(checked.problems) == 1
    assert f"set {setting} {health.WANTED[setting]}" in checked.problems[0]


async def test_a_redis_that_hides_its_settings_is_trusted_and_that_is_said(fresh_redis):
    with fresh_redis.client() as raw:
        raw.acl_setuser(
            "managed", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all", "-config"]
        )
    store = await connect(fresh_redis.url.replace("//", "//managed:pw@"))
    checked = await store.health()
    assert checked.durable
    assert checked.problems == ()
    assert "appendfsync always" in checked.hidden[0]
    assert (await begun(store)).ref.epoch == 1
    await store.aclose()


async def test_above_the_watermark_no_session_is_opened_but_steps_go_on(fresh, fresh_redis):
    began = await begun(fresh)
    with fresh_redis.client() as raw:
        raw.setrange("ballast", 8_000_000, "x")  # else the scripts themselves take more than 5 % of an empty server
        raw.config_set("maxmemory", raw.info("memory")["used_memory"] + 2_000_000)
        assert (await fresh.open(new_session())).epoch == 0
        raw.config_set("maxmemory", int(raw.info("memory")["used_memory"] / 0.95))
    assert await refused(fresh.open(new_session())) == Reason.STORE_FULL
    await fresh.commit(commit_request(began.descriptor.session_id, began.ref, "step-1"))
    assert (await fresh.begin(begin_request(began.descriptor.session_id, "step-2"))).ref.epoch == 2


async def test_at_the_hard_limit_what_was_admitted_still_ends(fresh, fresh_redis):
    publisher = lease("w1")
    sessions = [await begun(fresh) for _ in range(4)]
    with fresh_redis.client() as raw:
        publish(raw, publisher)
        raw.config_set("maxmemory", 1)
    first, second, third, fourth = (began.descriptor.session_id for began in sessions)
    assert await fresh.reserve(reservation(sessions[0]))
    assert not await fresh.reserve(reservation(sessions[1], tokens=10_000))
    assert await fresh.renew(POOL, [RenewItem(first, sessions[0].ref)], LONG_MS) == [True]
    assert (await fresh.commit(commit_request(first, sessions[0].ref, "step-1"))).index == 0
    await fresh.release(reservation(sessions[1]))
    await fresh.abort(second, sessions[1].ref)
    assert await refused(fresh.begin(begin_request(second, "step-2"))) == Reason.STORE_FULL
    assert await refused(fresh.open(new_session())) == Reason.STORE_FULL
    await fresh.renew(POOL, [RenewItem(third, sessions[2].ref), RenewItem(fourth, sessions[3].ref)], 0)
    await fresh.evict(third, TENANT)
    await fresh.close(third, TENANT)
    await fresh.delete(fourth, TENANT)
