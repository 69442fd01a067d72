"""The ledger of reservations, and what workers publish: N gateways admit as one."""

import asyncio
import random

import pytest

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.keys import PoolKeys
from roost.store.known_keys import FEW_WORKERS
from roost.store.records import Began, RenewItem
from roost.store.rules import RESIDENCY_DELAY_MS
from store_driver import (
    LONG_MS,
    POOL,
    TENANT,
    begin_grace,
    begin_request,
    commit_request,
    lease,
    new_session,
    own,
    publish,
    publish_cached,
    redis_ms,
    reservation,
    reservations,
    waiters,
)

KEYS = PoolKeys(POOL)


async def begun(store, step_id: str = "step-1", **fields) -> Began:
    session_id = (await store.open(new_session())).session_id
    return await store.begin(begin_request(session_id, step_id, **fields))


async def test_reservations_end_at_the_workers_capacity(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    granted = [
        bool(await gateway.reserve(reservation(await begun(gateway), "w1", 40))) for gateway in (store, other, store)
    ]
    assert granted == [True, True, False]
    view = (await store.workers(POOL))[0]
    assert (view.reserved_tokens, view.reserved_attempts) == (80, 2)


@pytest.mark.parametrize("seed", range(4))
async def test_many_who_reserve_at_once_never_exceed_the_capacity(store, other, raw, seed):
    chance = random.Random(seed)
    publish(raw, lease("w1", capacity_tokens=100, max_running=4))
    publish(raw, lease("w2", capacity_tokens=60, max_running=9))
    asked = [reservation(await begun(store), chance.choice(("w1", "w2")), chance.randint(1, 40)) for _ in range(30)]
    calls = [chance.choice((store, other)).reserve(request) for request in asked for _ in range(2)]
    chance.shuffle(calls)
    await asyncio.gather(*calls)
    views = {view.lease.worker_id: view for view in await store.workers(POOL)}
    assert views["w1"].reserved_tokens <= 100
    assert views["w1"].reserved_attempts <= 8
    assert views["w2"].reserved_tokens <= 60
    held = sum(view.reserved_attempts for view in views.values())
    assert held + raw.hlen(KEYS.waiters) == len(asked)
    assert held > 0


async def test_reservations_end_at_twice_what_the_worker_runs(store, raw):
    publish(raw, lease("w1", capacity_tokens=1000, max_running=2))
    assert [bool(await store.reserve(reservation(await begun(store)))) for _ in range(5)] == [True] * 4 + [False]


async def test_a_reservation_that_is_sent_again_is_the_same(store, raw):
    publish(raw, lease("w1", capacity_tokens=10))
    began = await begun(store)
    await asyncio.gather(*[begun(store) for _ in range(2)])
    assert [bool(await store.reserve(reservation(began, tokens=10))) for _ in range(2)] == [True, True]
    assert len(reservations(raw)) == 1
    assert (await store.get(began.descriptor.session_id, TENANT)).attempt.worker_id == "w1"


async def test_what_is_reserved_stays_reserved_when_the_worker_begins_to_drain(store, raw):
    publish(raw, lease("w1"))
    began = await begun(store)
    assert await store.reserve(reservation(began, tokens=10))
    publish(raw, lease("w1", draining=True))
    assert await store.reserve(reservation(began, tokens=10))
    assert not await store.reserve(reservation(began, tokens=11))


async def test_a_reservation_at_another_worker_replaces_the_first(store, raw):
    publish(raw, lease("w1"))
    publish(raw, lease("w2"))
    began = await begun(store)
    await store.reserve(reservation(began, "w1"))
    await store.reserve(reservation(began, "w2"))
    assert list(reservations(raw)) == [f"w2|{began.ref.nonce.hex()}"]
    await store.release(reservation(began, "w2"))
    assert raw.hlen(KEYS.reservations) == 0
    assert (await store.get(began.descriptor.session_id, TENANT)).attempt.worker_id == ""


@pytest.mark.parametrize("why", ["no lease", "lease gone", "draining"])
async def test_a_worker_that_takes_no_work_makes_the_step_wait(store, raw, why):
    if why != "no lease":
        publish(raw, lease("w1", draining=why == "draining"), ms=-1 if why == "lease gone" else LONG_MS)
    began = await begun(store)
    assert not await store.reserve(reservation(began))
    assert waiters(raw) == {began.ref.nonce.hex()}


async def test_a_stale_attempt_reserves_nothing(store, other, raw):
    publish(raw, lease("w1"))
    began = await begun(store)
    await other.begin(begin_request(began.descriptor.session_id))
    with pytest.raises(Refused) as caught:
        await store.reserve(reservation(began))
    assert caught.value.reason == Reason.ATTEMPT_FENCED
    await store.delete((await begun(store, lease_ms=0)).descriptor.session_id, TENANT)
    assert raw.hlen(KEYS.reservations) + raw.hlen(KEYS.waiters) == 0


async def test_renewing_brings_back_a_reservation_that_had_run_out(store, raw):
    publish(raw, lease("w1", capacity_tokens=15))
    began = await begun(store)
    await store.reserve(reservation(began, tokens=10, lease_ms=0))
    other_step = await begun(store)
    assert not await store.reserve(reservation(other_step, tokens=99))  # purges in passing
    assert raw.hlen(KEYS.reservations) == 0
    await store.renew(POOL, [RenewItem(began.descriptor.session_id, began.ref)], LONG_MS)
    assert not await store.reserve(reservation(other_step, tokens=10))


async def test_a_session_that_its_owner_has_dropped_neither_reserves_nor_waits_there(store, raw):
    publish(raw, lease("w1", capacity_tokens=10))
    session_id = (await store.open(new_session())).session_id
    own(raw, session_id)
    hot = await store.begin(begin_request(session_id))
    assert (hot.reserved, hot.cached_tokens) == ("w1", 1)
    await store.abort(session_id, hot.ref)
    publish_cached(raw, session_id, tokens=0)
    cold = await store.begin(begin_request(session_id))
    assert (cold.reserved, cold.cached_tokens) == ("", 0)
    await store.abort(session_id, cold.ref)
    assert await store.reserve(reservation(await begun(store)))
    cold = await store.begin(begin_request(session_id))
    assert (cold.reserved, waiters(raw)) == ("", set())


@pytest.mark.parametrize("when", ["published since", "not published since", "lease gone"])
async def test_a_worker_is_believed_from_its_first_publication_after_the_step(store, raw, when):
    """What a worker has parked is published up to a period later, and a new Redis knows nothing of it for as long."""
    began = await begun(store)
    session_id = began.descriptor.session_id
    await store.commit(commit_request(session_id, began.ref, "step-1", owner="w1"))
    age_ms = RESIDENCY_DELAY_MS if when == "published since" else RESIDENCY_DELAY_MS // 2
    publish(raw, lease("w1"), ms=-1 if when == "lease gone" else age_ms)
    if when == "lease gone":
        begin_grace(store)
    again = await store.begin(begin_request(session_id, "step-2"))
    assert (again.reserved, again.cached_tokens) == (("", 0) if when == "published since" else ("w1", 5))


async def test_a_pool_of_many_workers_is_not_named_in_every_begin(store, other, raw):
    for number in range(2 * FEW_WORKERS):
        publish(raw, lease(f"w{number}"))
    await other.workers(POOL)
    session_id = (await store.open(new_session())).session_id
    own(raw, session_id)
    keys = []
    send = other._link.script_runner.evalsha

    async def counted(sha, count, *arguments):
        keys.append(count)
        return await send(sha, count, *arguments)

    other._link.script_runner.evalsha = counted
    for _ in range(2):
        began = await other.begin(begin_request(session_id))
        assert began.reserved == "w1"
        await other.abort(session_id, began.ref)
    assert max(keys) < 2 * FEW_WORKERS, "fewer than there are workers"


async def test_workers_are_those_with_a_lease_in_force(store, raw):
    published = lease("w1", running=3)
    publish(raw, published, ms=9_000)
    publish(raw, lease("w2"), ms=-1)
    publish(raw, lease("w3"))
    raw.set(KEYS.lease("w3"), "{}")
    views = await store.workers(POOL)
    assert [view.lease for view in views] == [published]
    assert 0 < views[0].ms_left <= 9_000
    publish(raw, lease("w4"))
    raw.zrem(KEYS.workers, "w1")
    assert [view.lease.worker_id for view in await store.workers(POOL)] == ["w4"]


async def test_a_worker_that_is_long_gone_is_forgotten(store, raw):
    publish(raw, lease("w1"), ms=-2 * LONG_MS)
    publish(raw, lease("w2"), ms=-1)
    await store.workers(POOL)
    assert raw.zrange(KEYS.workers, 0, -1) == [b"w2"]


async def test_residency_names_the_worker_with_most_tokens(store, raw):
    raw.hset(KEYS.residency("w1"), mapping={"s1": 10, "s2": 30})
    raw.hset(KEYS.residency("w2"), mapping={"s1": 20})
    residency = await store.residency(POOL, ["w1", "w2", "w3"], ["s1", "s2", "s3"])
    assert residency == {"s1": ("w2", 20, 0), "s2": ("w1", 30, 0)}
    assert await store.residency(POOL, [], ["s1"]) == await store.residency(POOL, ["w1"], []) == {}


async def test_residency_counts_what_is_in_host_memory_beside_what_is_on_the_device(store, raw):
    raw.hset(KEYS.residency("w1"), mapping={"s1": 10, "s1:warm": 20, "s2:warm": 5, "s3": 7})
    raw.hset(KEYS.residency("w2"), mapping={"s1": 20, "s3": 4, "s3:warm": 3})
    residency = await store.residency(POOL, ["w1", "w2"], ["s1", "s2", "s3"])
    assert residency == {"s1": ("w1", 10, 20), "s2": ("w1", 0, 5), "s3": ("w1", 7, 0)}


async def test_begin_and_a_look_say_what_the_owner_has_in_host_memory(store, raw):
    publish(raw, lease("w1"))
    first = await begun(store)
    session_id = first.descriptor.session_id
    await store.abort(session_id, first.ref)
    own(raw, session_id)
    for tokens, warm, reserved in ((0, 9, ""), (3, 9, "w1")):
        publish_cached(raw, session_id, tokens=tokens, warm=warm)
        raw.hset(KEYS.session(session_id), "updated", 0)
        look = await store.look(POOL, "w1", session_id)
        assert (look.cached_tokens, look.warm_tokens) == (tokens, warm)
        began = await store.begin(begin_request(session_id))
        assert (began.cached_tokens, began.warm_tokens, began.reserved) == (tokens, warm, reserved)
        await store.abort(session_id, began.ref)


async def test_a_look_at_a_worker_says_what_it_holds_and_has_cached(store, raw):
    publish(raw, lease("w1"))
    began = await begun(store)
    session_id = began.descriptor.session_id
    publish_cached(raw, session_id, tokens=7)
    assert await store.reserve(reservation(began, tokens=30))
    look = await store.look(POOL, "w1", session_id)
    assert look.view is not None
    assert (look.view.lease, look.view.reserved_tokens, look.view.reserved_attempts) == (lease("w1"), 30, 1)
    assert look.cached_tokens == 7
    gone = await store.look(POOL, "w2", session_id)
    assert (gone.view, gone.cached_tokens) == (None, 0)


async def test_sums_that_others_made_wrong_are_made_anew(store, raw):
    """A gateway of an older version writes members and no sums; or somebody mends the ledger by hand."""
    publish(raw, lease("w1", capacity_tokens=100))
    first, second = await begun(store), await begun(store)
    assert await store.reserve(reservation(first, tokens=60))
    foreign = f"w1|{'ab' * 16}"
    raw.hset(KEYS.reservations, foreign, f"30:{redis_ms(raw) + LONG_MS}")
    assert (await store.workers(POOL))[0].reserved_tokens == 90
    assert not await store.reserve(reservation(second, tokens=20))
    assert sum(tokens for tokens, _ in reservations(raw, summed=True).values()) == 90
    raw.hdel(KEYS.reservations, foreign)
    assert await store.reserve(reservation(second, tokens=40))
    assert (await store.workers(POOL))[0].reserved_tokens == 100
    for attempt in (first, second):
        await store.abort(attempt.descriptor.session_id, attempt.ref)
    assert raw.hlen(KEYS.reservations) == 0


async def test_a_drop_from_sums_that_are_wrong_does_not_make_them_look_right(store, raw):
    publish(raw, lease("w1", capacity_tokens=100))
    first, second = await begun(store), await begun(store)
    assert await store.reserve(reservation(first, tokens=60))
    raw.hset(KEYS.reservations, f"w1|{'ab' * 16}", f"30:{redis_ms(raw) + LONG_MS}")
    await store.abort(first.descriptor.session_id, first.ref)
    assert (await store.workers(POOL))[0].reserved_tokens == 30
    assert not await store.reserve(reservation(second, tokens=80))
