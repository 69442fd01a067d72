"""Sessions' records: what is written is read, tenants are apart, and what is erased is gone."""

import dataclasses

import pytest

from refused_calls import refused
from roost.contract import loghash, names
from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.store.keys import POOLS, PoolKeys
from roost.store.records import NewSession, State
from roost.store.redis_store import RedisStore
from roost.store.rules import day_of
from store_driver import LONG_MS, POOL, TENANT, begin_request, commit_request, new_session

KEYS = PoolKeys(POOL)


async def opened(store: RedisStore, **fields) -> str:
    return (await store.open(new_session(**fields))).session_id


async def committed(store: RedisStore, session_id: str, step_id: str = "step-1", **fields) -> Head:
    began = await store.begin(begin_request(session_id, step_id))
    head = began.descriptor.head
    return (await store.commit(commit_request(session_id, began.ref, step_id, head, **fields))).head


async def why(call) -> Reason:
    return (await refused(call)).reason


async def test_an_opened_session_is_read_as_written(store):
    new = new_session(task="task-9", parent="p", labels={"branch": "main"}, model_revision="r", ttl_ms=60_000)
    descriptor = await store.open(new)
    assert descriptor == await store.get(new.session_id, TENANT)
    for field in dataclasses.fields(NewSession):
        if field.name not in ("request_id", "ttl_ms"):
            assert getattr(descriptor, field.name) == getattr(new, field.name), field.name
    assert (descriptor.state, descriptor.head, descriptor.steps, descriptor.epoch) == (State.ACTIVE, Head(), 0, 0)
    assert descriptor.expires_ms - descriptor.created_ms == 60_000


async def test_a_session_that_is_opened_without_a_date_gets_the_day(store):
    descriptor = await store.open(new_session(date=""))
    assert descriptor.date == day_of(descriptor.created_ms)
    assert (await store.get(descriptor.session_id, TENANT)).date == descriptor.date


async def test_a_repeated_request_id_returns_the_session_it_made(store):
    first = await store.open(new_session(request_id="once"))
    assert await store.open(new_session(request_id="once")) == first
    assert (await store.open(new_session(request_id="twice"))).session_id != first.session_id
    assert (await store.open(new_session(request_id="once", tenant="other"))).session_id != first.session_id


async def test_a_request_id_whose_session_was_deleted_makes_a_new_one(store):
    first = await store.open(new_session(request_id="once"))
    await store.delete(first.session_id, TENANT)
    second = await store.open(new_session(request_id="once"))
    assert second.session_id != first.session_id
    assert await store.open(new_session(request_id="once")) == second


async def test_the_session_that_a_request_opened_is_read_while_it_is_there(store):
    session = await store.open(new_session(request_id="once"))
    assert await store.opened(POOL, TENANT, "once") == session
    assert await store.opened(POOL, "other", "once") is None
    assert await store.opened(POOL, TENANT, "twice") is None
    await store.delete(session.session_id, TENANT)
    assert await store.opened(POOL, TENANT, "once") is None


async def test_a_request_id_cannot_name_the_key_of_another_tenant(store, raw):
    await opened(store, tenant="a:open:b")
    await store.open(new_session(tenant="a", request_id="b:sessions"))
    assert raw.type(KEYS.tenant_sessions("a:open:b")) == b"zset"


async def test_another_tenants_session_is_not_found_by_any_call(store):
    session_id = await opened(store)
    head = await committed(store, session_id)
    for call in (
        store.get(session_id, "mallory"),
        store.begin(begin_request(session_id, "step-2", tenant="mallory")),
        store.begin(begin_request(session_id, "step-1", tenant="mallory")),
        store.hold(session_id, "mallory", "grep", 1, head),
        store.evict(session_id, "mallory"),
        store.close(session_id, "mallory"),
        store.delete(session_id, "mallory"),
        store.get(session_id, ""),
        store.get(names.new_session_id(POOL), TENANT),
    ):
        assert await why(call) is Reason.SESSION_NOT_FOUND
    assert await store.list_sessions(POOL, "mallory", "", 10) == []
    assert (await store.get(session_id, TENANT)).head == head


async def test_listing_pages_through_the_own_sessions_in_order_of_creation(store):
    mine = sorted([await opened(store) for _ in range(7)])
    await opened(store, tenant="other")
    listed, after = [], ""
    while page := await store.list_sessions(POOL, TENANT, after, 3):
        listed += [descriptor.session_id for descriptor in page]
        after = listed[-1]
    assert listed == mine


async def test_listing_passes_over_expired_sessions_and_forgets_their_names(store, raw):
    sessions = sorted([await opened(store) for _ in range(6)])
    for session_id in sessions[:4]:
        raw.delete(KEYS.session(session_id))
    assert [d.session_id for d in await store.list_sessions(POOL, TENANT, "", 2)] == sessions[4:]
    assert raw.zcard(KEYS.tenant_sessions(TENANT)) == 2


async def test_a_hold_is_recorded_replaced_and_ended_by_the_next_step(store):
    session_id = await opened(store)
    head = await committed(store, session_id)
    await store.hold(session_id, TENANT, "grep", 3.5, head)
    held = await store.hold(session_id, TENANT, "sql", 0.25, None)
    assert (held.hold.tool, held.hold.expect_seconds) == ("sql", 0.25)
    assert held.hold.begin_ms == held.updated_ms
    assert (await store.begin(begin_request(session_id, "step-2"))).descriptor.hold is None
    assert (await store.get(session_id, TENANT)).hold is None


async def test_a_hold_checks_the_head_that_the_client_saw(store):
    session_id = await opened(store)
    head = await committed(store, session_id)
    longer, other = Head(head.length + 1, bytes(16)), Head(head.length, bytes(16))
    for wrong, reason in (
        (Head(), Reason.HEAD_MISMATCH),
        (longer, Reason.SESSION_ROLLED_BACK),
        (other, Reason.SESSION_ROLLED_BACK),
    ):
        error = await refused(store.hold(session_id, TENANT, "grep", 1, wrong))
        assert (error.reason, Head.from_metadata(error.metadata)) == (reason, head)
    assert (await store.get(session_id, TENANT)).hold is None


async def test_an_eviction_takes_an_epoch_and_forgets_the_owner(store):
    session_id = await opened(store)
    await committed(store, session_id)
    before = await store.get(session_id, TENANT)
    after, epoch = await store.evict(session_id, TENANT)
    assert before.owner == "w1"
    assert after == dataclasses.replace(before, owner="", epoch=before.epoch + 1)
    assert epoch == before.epoch + 1
    assert (await store.begin(begin_request(session_id, "step-2"))).ref.epoch > epoch


async def test_a_closed_session_takes_no_step_but_repeats_its_results(store):
    session_id = await opened(store)
    await committed(store, session_id)
    closed = await store.close(session_id, TENANT)
    assert closed.state == State.CLOSED
    assert await store.close(session_id, TENANT) == closed
    for call in (
        store.begin(begin_request(session_id, "step-2")),
        store.hold(session_id, TENANT, "grep", 1, None),
    ):
        assert await why(call) is Reason.SESSION_CLOSED
    assert (await store.begin(begin_request(session_id, "step-1"))).entry.step_id == "step-1"


async def test_a_live_attempt_keeps_hold_evict_close_and_delete_away(store):
    session_id = await opened(store)
    began = await store.begin(begin_request(session_id, lease_ms=LONG_MS))
    for call in (
        store.hold(session_id, TENANT, "grep", 1, None),
        store.evict(session_id, TENANT),
        store.close(session_id, TENANT),
        store.delete(session_id, TENANT),
    ):
        error = await refused(call)
        assert error.reason is Reason.ANOTHER_STEP_RUNNING
        assert 1.0 < error.retry_seconds <= LONG_MS / 1000
    assert (await store.commit(commit_request(session_id, began.ref, "step-1"))).index == 0


@pytest.mark.parametrize("how", ["hold", "evict", "close", "delete"])
async def test_an_expired_attempt_is_fenced_by_what_the_client_does_next(store, how):
    session_id = await opened(store)
    began = await store.begin(begin_request(session_id, lease_ms=0))
    arguments = {"hold": ("grep", 1.0, None)}.get(how, ())
    await getattr(store, how)(session_id, TENANT, *arguments)
    if how != "delete":
        assert (await store.get(session_id, TENANT)).attempt is None
    error = await refused(store.commit(commit_request(session_id, began.ref, "step-1")))
    assert error.reason == (Reason.SESSION_NOT_FOUND if how == "delete" else Reason.ATTEMPT_FENCED)


async def test_a_session_that_has_gone_on_is_not_deleted_at_the_head_before(store):
    session_id = await opened(store)
    before = (await store.get(session_id, TENANT)).head
    await committed(store, session_id)
    assert await why(store.delete(session_id, TENANT, before)) is Reason.HEAD_MISMATCH
    await store.delete(session_id, TENANT, (await store.get(session_id, TENANT)).head)
    assert await why(store.get(session_id, TENANT)) is Reason.SESSION_NOT_FOUND


async def test_a_deleted_session_leaves_nothing_of_its_content(store, raw):
    session_id = await opened(store, system="a secret", request_id="once")
    await committed(store, session_id)
    epoch = (await store.get(session_id, TENANT)).epoch
    assert await store.delete(session_id, TENANT) == epoch + 1
    for call in (
        store.get(session_id, TENANT),
        store.begin(begin_request(session_id, "step-1")),
        store.delete(session_id, TENANT),
    ):
        assert await why(call) is Reason.SESSION_NOT_FOUND
    assert raw.zcard(KEYS.tenant_sessions(TENANT)) == 0
    assert await store.list_sessions(POOL, TENANT, "", 10) == []
    assert await store.log(session_id, 1, 0, 10) == []
    assert await store.ids(session_id, 1, 0, 10) == b""
    assert raw.hkeys(KEYS.session(session_id)) == [b"state", b"request"]
    assert 0 < raw.pttl(KEYS.session(session_id)) <= 60_000
    assert set(raw.scan_iter("*:s:*")) == {KEYS.session(session_id).encode()}


async def test_every_key_carries_the_pools_tag(store, raw):
    session_id = await opened(store, request_id="once", ttl_ms=60_000)
    await committed(store, session_id)
    await store.begin(begin_request(session_id, "step-2"))
    stored = list(raw.scan_iter())
    # Descriptor, log, ids, steps, index, request id; what the tenant has had, and the gateways' waits.
    assert len(stored) == 8
    assert all(key.startswith(b"roost:{team/agents}:") for key in stored)


async def test_all_keys_of_a_session_expire_together(store, raw):
    session_id = await opened(store, ttl_ms=60_000)
    await committed(store, session_id, ttl_ms=60_000)
    descriptor = await store.get(session_id, TENANT)
    names_of_keys = [KEYS.session(session_id), KEYS.steps(session_id)]
    names_of_keys += [KEYS.log(session_id, 1), KEYS.ids(session_id, 1)]
    script = "local t = redis.call('TIME') return t[1] * 1000 + math.floor(t[2] / 1000) + redis.call('PTTL', KEYS[1])"
    ends = [raw.eval(script, 1, key) for key in names_of_keys]
    assert max(ends) - min(ends) <= 1  # TIME and PTTL round apart
    assert abs(ends[0] - descriptor.expires_ms) <= 1
    await committed(store, session_id, "step-2", ttl_ms=0)
    assert {raw.pttl(key) for key in names_of_keys} == {-1}
    assert (await store.get(session_id, TENANT)).expires_ms == 0


async def test_ids_and_entries_are_read_by_range(store):
    session_id = await opened(store)
    await committed(store, session_id, prompt=(10, 11), output=(12,))
    await committed(store, session_id, "step-2", prompt=(2**32 - 1,), output=(13, 14))
    assert list(loghash.unpack_ids(await store.ids(session_id, 1, 0, 99))) == [10, 11, 12, 2**32 - 1, 13, 14]
    assert list(loghash.unpack_ids(await store.ids(session_id, 1, 2, 4))) == [12, 2**32 - 1]
    assert await store.ids(session_id, 1, 4, 4) == b""
    assert [entry.step_id for entry in await store.log(session_id, 1, 1, 5)] == ["step-2"]
    assert await store.log(session_id, 1, 0, 0) == []
    places = [await store.step_place(session_id, name) for name in ("step-1", "step-2", "step-9")]
    assert places == [(1, 0), (1, 1), None]
    assert await store.step_place(names.new_session_id(POOL), "step-1") is None


async def test_pools_and_their_documents(store, raw):
    assert await store.pools() == []
    assert await store.pool_document(POOL) is None
    raw.sadd(POOLS, POOL, "team/a")
    raw.set(KEYS.document, '{"pool": "team/agents"}')
    assert await store.pools() == ["team/a", POOL]
    assert await store.pool_document(POOL) == {"pool": POOL}


async def test_what_is_no_sessions_name_is_refused_before_redis(store, raw):
    with pytest.raises(ValueError, match="not a session's name"):
        await store.get("team/agents/../x", TENANT)
