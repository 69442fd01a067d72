"""The store in memory, as far as its users need more than the Redis store shows: its clock, and lost data."""

import pytest

from roost.contract.heads import Head
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.memory import MemoryStore
from roost.store.records import AlreadyCommitted, Began
from store_driver import POOL, TENANT, begin_request, commit_step, lease, new_session, reservation

TTL_MS = 1000


class Clock:
    def __init__(self) -> None:
        self.ms = 1

    def __call__(self) -> int:
        return self.ms


async def test_a_session_is_erased_after_its_idle_time() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    new = new_session(ttl_ms=TTL_MS, request_id="once")
    await store.open(new)
    clock.ms += TTL_MS - 1
    await commit_step(store, new.session_id, "step-1", ttl_ms=TTL_MS)
    clock.ms += TTL_MS - 1
    assert (await store.get(new.session_id, TENANT)).steps == 1
    clock.ms += 1
    assert await store.list_sessions(POOL, TENANT, "", 9) == []
    again = await store.open(new_session(request_id="once"))
    assert again.session_id != new.session_id, "the request that opened it opens another"


async def test_nothing_of_an_expired_session_is_read_or_comes_back() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    session_id = (await store.open(new_session(ttl_ms=TTL_MS))).session_id
    await commit_step(store, session_id, "step-1", ttl_ms=TTL_MS)
    began = await store.begin(begin_request(session_id, "step-2", lease_ms=0))
    clock.ms += TTL_MS
    assert (await store.log(session_id, 1, 0, 9), await store.ids(session_id, 1, 0, 9)) == ([], b"")
    await store.abort(session_id, began.ref)
    assert await store.list_sessions(POOL, TENANT, "", 9) == []


async def test_a_lease_keeps_others_out_until_it_ends() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    session_id = (await store.open(new_session())).session_id
    await store.begin(begin_request(session_id, lease_ms=5000))
    clock.ms += 2000
    with pytest.raises(Refused) as caught:
        await store.begin(begin_request(session_id, "step-2"))
    assert (caught.value.reason, caught.value.retry_seconds) == (Reason.ANOTHER_STEP_RUNNING, 3.0)
    clock.ms += 3000
    assert isinstance(await store.begin(begin_request(session_id, "step-2")), Began)


async def test_a_place_among_the_waiters_ends_at_its_deadline() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    store.publish(POOL, lease("w1", capacity_tokens=15), 60_000)
    late, next_one = [await store.begin(begin_request((await store.open(new_session())).session_id)) for _ in range(2)]
    assert not await store.reserve(reservation(late, "w1", tokens=99, deadline_ms=500))
    clock.ms += 1
    assert not await store.reserve(reservation(next_one, "w1", tokens=10))
    clock.ms += 499
    assert await store.reserve(reservation(next_one, "w1", tokens=10))
    assert store.pool(POOL).waiters == {}


async def test_steps_that_were_rolled_back_can_be_taken_again() -> None:
    store = MemoryStore()
    session_id = (await store.open(new_session())).session_id
    kept = await commit_step(store, session_id, "step-1")
    await commit_step(store, session_id, "step-2")
    store.sessions[session_id].roll_back(1)
    descriptor = await store.get(session_id, TENANT)
    assert (descriptor.head, descriptor.steps) == (kept, 1)
    assert len(await store.ids(session_id, 1, 0, 99)) == 4 * kept.length
    assert isinstance(await store.begin(begin_request(session_id, "step-1")), AlreadyCommitted)
    assert isinstance(await store.begin(begin_request(session_id, "step-2", expected_head=kept)), Began)
    store.sessions[session_id].roll_back(5)
    assert (await store.get(session_id, TENANT)).head == Head()
