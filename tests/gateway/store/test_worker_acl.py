"""A worker's Redis user writes leases and residency, and reads no log."""

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from roost.store.keys import PoolKeys
from roost.store.redis_store import RedisStore
from roost_worker.server.lease import LeasePublisher
from store_driver import POOL, TENANT, begin_request, commit_request, lease, new_session

KEYS = PoolKeys(POOL)


async def begun(store: RedisStore, **fields):
    session_id = (await store.open(new_session())).session_id
    return await store.begin(begin_request(session_id, **fields))


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
