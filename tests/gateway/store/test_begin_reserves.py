"""Where Begin reserves: at the owner that holds the session's KV and has room, or where its attempt's output is."""

import pytest

from roost.store.keys import PoolKeys
from store_driver import (
    LONG_MS,
    POOL,
    begin_request,
    commit_step,
    lease,
    new_session,
    next_ms,
    publish,
    publish_cached,
    reservation,
    reservations,
)

KEYS = PoolKeys(POOL)


async def test_begin_reserves_at_the_owner_when_it_lives_and_has_room(store, other, raw, session_id):
    publish(raw, lease("w1", capacity_tokens=20))
    await commit_step(store, session_id, "step-1", owner="w1")
    publish_cached(raw, session_id)
    began = await other.begin(begin_request(session_id, "step-2", new_tokens=15))
    assert began.reserved == "w1"
    assert len(reservations(raw)) == 1
    assert (await other.workers(POOL))[0].reserved_tokens == 20
    await other.abort(session_id, began.ref)
    assert raw.hlen(KEYS.reservations) == 0
    waiting = await other.begin(begin_request(session_id, "step-2", new_tokens=16))
    assert (waiting.reserved, raw.hlen(KEYS.waiters)) == ("", 1)
    await other.abort(session_id, waiting.ref)
    assert raw.hlen(KEYS.waiters) == 0


@pytest.mark.parametrize("why", ["lease gone", "draining", "never there", "unreadable lease"])
async def test_begin_reserves_nothing_at_an_owner_that_takes_no_work(store, raw, session_id, why):
    await commit_step(store, session_id, "step-1", owner="w1")
    publish_cached(raw, session_id)
    if why != "never there":
        publish(raw, lease("w1", draining=why == "draining"), ms=-1 if why == "lease gone" else LONG_MS)
    if why == "unreadable lease":
        raw.set(KEYS.lease("w1"), "{")
    assert (await store.begin(begin_request(session_id, "step-2"))).reserved == ""
    assert raw.hlen(KEYS.reservations) == 0


async def test_a_retry_takes_over_the_reservation_of_the_attempt_it_fences(store, other, raw, session_id):
    publish(raw, lease("w1"))
    first = await store.begin(begin_request(session_id))
    assert await store.reserve(reservation(first, "w1", 50))
    second = await other.begin(begin_request(session_id))
    assert (second.reserved, second.fenced.worker_id) == ("w1", "w1")
    assert list(reservations(raw)) == [f"w1|{second.ref.nonce.hex()}"]
    assert (await other.workers(POOL))[0].reserved_tokens == 50
    again = await store.begin(begin_request(session_id, nonce=second.ref.nonce))
    assert (again.ref, again.reserved) == (second.ref, "w1")


async def test_a_retry_with_a_larger_estimate_keeps_what_it_has_at_a_full_worker(store, other, raw, session_id):
    publish(raw, lease("w1", capacity_tokens=60))
    first = await store.begin(begin_request(session_id))
    assert await store.reserve(reservation(first, "w1", 50))
    second = await other.begin(begin_request(session_id, new_tokens=70))
    assert (second.reserved, second.descriptor.attempt.worker_id) == ("w1", "w1")
    assert list(reservations(raw)) == [f"w1|{second.ref.nonce.hex()}"]
    assert (await other.workers(POOL))[0].reserved_tokens == 50
    assert raw.hlen(KEYS.waiters) == 0


async def test_what_the_former_attempt_has_at_another_worker_makes_no_room_at_this_one(store, raw, session_id):
    """The retry's own worker drains, and the owner lacks as much room as the step has there."""
    publish(raw, lease("w1", capacity_tokens=20))
    publish(raw, lease("w2"))
    await commit_step(store, session_id, "step-1", owner="w1")
    publish_cached(raw, session_id)
    first = await store.begin(begin_request(session_id, "step-2", new_tokens=16))
    assert await store.reserve(reservation(first, "w2", 21))
    publish(raw, lease("w2", draining=True), ms=-1)
    second = await store.begin(begin_request(session_id, "step-2", new_tokens=16))
    assert (second.reserved, second.descriptor.attempt.worker_id) == ("", "")


@pytest.mark.parametrize(("lost", "where"), [(False, "w2"), (True, "w1")])
async def test_a_retry_goes_where_its_output_is_rather_than_to_the_owner(store, raw, session_id, lost, where):
    publish(raw, lease("w1"))
    publish(raw, lease("w2"))
    await commit_step(store, session_id, "step-1", owner="w1")
    publish_cached(raw, session_id)
    first = await store.begin(begin_request(session_id, "step-2"))
    assert await store.reserve(reservation(first, "w2"))
    if lost:
        publish(raw, lease("w2"), ms=-1)
    second = await store.begin(begin_request(session_id, "step-2"))
    assert (second.fenced.worker_id, second.reserved) == ("w2", where)
    assert list(reservations(raw)) == [f"{where}|{second.ref.nonce.hex()}"]


async def test_begin_reserves_for_a_session_without_a_log_where_the_gateway_asks(store, other, raw, session_id):
    publish(raw, lease("w1"))
    request = begin_request(session_id, new_tokens=30, first_worker="w1")
    began = await store.begin(request)
    assert (began.reserved, began.descriptor.attempt.worker_id) == ("w1", "w1")
    assert list(reservations(raw)) == [f"w1|{began.ref.nonce.hex()}"]
    assert (await other.workers(POOL))[0].reserved_tokens == 30
    again = await store.begin(request)
    assert (again.ref, again.reserved) == (began.ref, "w1")


@pytest.mark.parametrize("why", ["full", "draining", "never there", "the session has a log"])
async def test_begin_neither_reserves_nor_waits_where_the_gateway_asks_in_vain(store, raw, session_id, why):
    if why == "the session has a log":
        await commit_step(store, session_id, "step-1", owner="w2")
    if why != "never there":
        publish(raw, lease("w1", draining=why == "draining", capacity_tokens=20))
    tokens = 21 if why == "full" else 15
    began = await store.begin(begin_request(session_id, "step-2", new_tokens=tokens, first_worker="w1"))
    assert began.reserved == ""
    assert (reservations(raw), raw.hlen(KEYS.waiters)) == ({}, 0)


async def test_a_step_that_waits_goes_before_one_that_begins_at_the_worker_chosen_for_it(store, raw):
    publish(raw, lease("w1", capacity_tokens=100))
    running, waiting, coming = [(await store.open(new_session())).session_id for _ in range(3)]
    runs = await store.begin(begin_request(running, new_tokens=100, first_worker="w1"))
    waits = await store.begin(begin_request(waiting))
    assert not await store.reserve(reservation(waits, "w1", 60))
    await store.abort(running, runs.ref)
    next_ms()  # of steps that came in one millisecond either may be first
    assert (await store.begin(begin_request(coming, first_worker="w1"))).reserved == ""
    assert await store.reserve(reservation(waits, "w1", 60))
