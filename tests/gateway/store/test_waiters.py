"""The waiters and their lines, and how they hear of a release: N gateways serve in one order."""

import asyncio
import contextlib

import pytest

from redis_servers import PATIENCE_SECONDS
from roost.store.keys import PoolKeys
from roost.store.records import Began, RenewItem
from roost.store.rules import AGING_MS
from roost.store.wake import Wake
from roost.store.wakes import read_wake
from store_driver import (
    LONG_MS,
    POOL,
    begin_request,
    commit_request,
    lease,
    new_session,
    next_ms,
    own,
    publish,
    redis_ms,
    reservation,
    reservations,
    waiters,
    wakes_of_releases,
)

KEYS = PoolKeys(POOL)
CONTINUATION, NEW = 0, 1


async def begun(store, step_id: str = "step-1", **fields) -> Began:
    session_id = (await store.open(new_session())).session_id
    return await store.begin(begin_request(session_id, step_id, **fields))


def age(raw, began: Began, ms: int) -> None:
    """As if the attempt had waited `ms` longer."""
    nonce = began.ref.nonce.hex()
    priority, enqueued, *rest, place = raw.hget(KEYS.waiters, nonce).decode().split(":")
    line, rank, tenant = place.split("|")
    older = f"{line}|{int(rank) - ms:016}"
    raw.hset(KEYS.waiters, nonce, ":".join([priority, str(int(enqueued) - ms), *rest, f"{older}|{tenant}"]))
    raw.zrem(KEYS.lines, f"{line}|{rank}|{nonce}")
    raw.zadd(KEYS.lines, {f"{older}|{nonce}": 0})


async def test_reservations_and_waiters_whose_time_is_over_are_purged_in_passing(store, raw):
    publish(raw, lease("w1", capacity_tokens=10))
    crashed = [await begun(store), await begun(store)]
    assert await store.reserve(reservation(crashed[0], tokens=10, lease_ms=0))
    assert not await store.reserve(reservation(crashed[1], tokens=99, lease_ms=0))
    late = await begun(store)
    assert not await store.reserve(reservation(late, tokens=99, deadline_ms=1))
    next_ms()
    next_ms()
    began = await begun(store)
    assert await store.reserve(reservation(began, tokens=10))
    assert list(reservations(raw)) == [f"w1|{began.ref.nonce.hex()}"]
    assert waiters(raw) == set()


async def test_begin_purges_too(store, raw):
    publish(raw, lease("w1", capacity_tokens=10))
    crashed = [await begun(store), await begun(store)]
    assert await store.reserve(reservation(crashed[0], tokens=10, lease_ms=0))
    assert not await store.reserve(reservation(crashed[1], tokens=99))
    await store.renew(POOL, [RenewItem(began.descriptor.session_id, began.ref) for began in crashed], 0)
    session_id = (await store.open(new_session())).session_id
    own(raw, session_id)
    began = await store.begin(begin_request(session_id))
    assert began.reserved == "w1"
    assert list(reservations(raw)) == [f"w1|{began.ref.nonce.hex()}"]
    assert waiters(raw) == set()


async def test_a_new_session_never_overtakes_a_waiting_continuation(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    publish(raw, lease("w2", capacity_tokens=100, max_running=9))
    running = await begun(store)
    await store.reserve(reservation(running, "w1", 90))
    waiting = await begun(store)
    assert not await store.reserve(reservation(waiting, "w1", 50, priority=CONTINUATION))
    new = await begun(other)
    for worker_id in ("w1", "w2"):
        assert not await other.reserve(reservation(new, worker_id, 5, priority=NEW))
    await store.abort(running.descriptor.session_id, running.ref)
    assert not await other.reserve(reservation(new, "w1", 5, priority=NEW))
    assert await store.reserve(reservation(waiting, "w1", 50, priority=CONTINUATION))
    assert await other.reserve(reservation(new, "w1", 5, priority=NEW))
    assert waiters(raw) == set()


async def test_a_full_revision_does_not_block_another(store, other, raw):
    publish(raw, lease("old", model_revision="rev-1", capacity_tokens=10))
    publish(raw, lease("new", model_revision="rev-2", capacity_tokens=10))
    assert await store.reserve(reservation(await begun(store), "old"))
    waiting = await begun(store)
    assert not await store.reserve(reservation(waiting, "old", priority=CONTINUATION, revision="rev-1"))
    assert await other.reserve(reservation(await begun(other), "new", priority=NEW, revision="rev-2"))


@pytest.mark.parametrize("first", ["", "rev-1"])
async def test_steps_that_any_worker_can_serve_and_those_of_one_revision_keep_their_order(store, other, raw, first):
    publish(raw, lease("w1", model_revision="rev-1", capacity_tokens=10))
    running = await begun(store)
    assert await store.reserve(reservation(running))
    waiting, later = await begun(store), await begun(other)
    assert not await store.reserve(reservation(waiting, revision=first))
    await store.abort(running.descriptor.session_id, running.ref)
    next_ms()
    second = "rev-1" if first == "" else ""
    assert not await other.reserve(reservation(later, revision=second))
    assert await store.reserve(reservation(waiting, revision=first))


async def test_a_step_that_changes_its_line_has_one_place(store, raw):
    publish(raw, lease("w1", capacity_tokens=5))
    waiting = await begun(store)
    for revision in ("rev-1", "rev-2", "odd|name"):
        assert not await store.reserve(reservation(waiting, revision=revision))
        assert (raw.hlen(KEYS.waiters), raw.zcard(KEYS.lines)) == (1, 1)
    assert 0 < raw.pttl(KEYS.lines) <= 3_600_000
    await store.abort(waiting.descriptor.session_id, waiting.ref)
    assert raw.exists(KEYS.waiters, KEYS.lines) == 0


async def test_a_place_that_an_older_gateway_wrote_or_left_holds_nobody_up(store, raw):
    publish(raw, lease("w1"))
    raw.hset(KEYS.waiters, "ab" * 16, f"-5:1:0:{redis_ms(raw) + LONG_MS}")
    raw.zadd(KEYS.lines, {f"|{1:016}|{'cd' * 16}": 0})
    assert await store.reserve(reservation(await begun(store)))
    assert raw.zcard(KEYS.lines) == 0


async def test_waiters_that_died_in_a_line_that_nobody_asks_for_do_not_add_up(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=5))
    for number in range(4):
        crashed = await begun(store)
        place = reservation(crashed, revision=f"gone-{number % 2}", lease_ms=0, priority=CONTINUATION)
        assert not await store.reserve(place)
        assert waiters(raw) == {crashed.ref.nonce.hex()}
    asking = await begun(other)
    assert not await other.reserve(reservation(asking, revision="rev-1"))
    assert (waiters(raw), raw.zcard(KEYS.lines)) == ({asking.ref.nonce.hex()}, 1)
    crashed = await begun(store)
    assert not await store.reserve(reservation(crashed, revision="gone", lease_ms=0))
    own(raw, session_id := (await store.open(new_session())).session_id)
    begins = await store.begin(begin_request(session_id))
    assert waiters(raw) == {asking.ref.nonce.hex(), begins.ref.nonce.hex()}


async def test_only_aging_lets_a_new_session_overtake(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=100))
    running = await begun(store)
    await store.reserve(reservation(running, "w1", 100))
    new = await begun(other)
    assert not await other.reserve(reservation(new, "w1", 50, priority=NEW))
    waiting = await begun(store)
    assert not await store.reserve(reservation(waiting, "w1", 60, priority=CONTINUATION))
    await store.abort(running.descriptor.session_id, running.ref)
    assert not await other.reserve(reservation(new, "w1", 50, priority=NEW))
    age(raw, new, AGING_MS + 1)
    assert not await store.reserve(reservation(waiting, "w1", 60, priority=CONTINUATION))
    assert await other.reserve(reservation(new, "w1", 50, priority=NEW))


async def test_equal_classes_are_served_first_come_first_served(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=10))
    running = await begun(store)
    await store.reserve(reservation(running))
    order = [await begun(gateway) for gateway in (store, other, store)]
    for began in order:
        assert not await store.reserve(reservation(began))
        next_ms()
    await store.abort(running.descriptor.session_id, running.ref)
    for began in order:
        behind = order[order.index(began) + 1 :]
        assert not any([await other.reserve(reservation(later)) for later in behind])
        assert await other.reserve(reservation(began))
        await store.abort(began.descriptor.session_id, began.ref)


async def test_a_retry_keeps_its_place_among_the_waiters(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=10))
    running = await begun(store)
    session_id = running.descriptor.session_id
    await store.reserve(reservation(running))
    own(raw, session_id)
    first = await begun(store)
    own(raw, first.descriptor.session_id)
    assert not await store.reserve(reservation(first))
    next_ms()
    second = await begun(store)
    assert not await store.reserve(reservation(second))
    retried = await other.begin(begin_request(first.descriptor.session_id))
    assert waiters(raw) == {retried.ref.nonce.hex(), second.ref.nonce.hex()}
    await store.abort(session_id, running.ref)
    assert not await store.reserve(reservation(second))
    assert await other.reserve(reservation(retried))


async def test_begin_does_not_overtake_a_better_class(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=100))
    waiting = await begun(store)
    assert not await store.reserve(reservation(waiting, tokens=200, priority=CONTINUATION))
    session_id = (await other.open(new_session())).session_id
    own(raw, session_id)
    assert (await other.begin(begin_request(session_id, priority=NEW))).reserved == ""
    better = begin_request(session_id, priority=CONTINUATION - 1)
    assert (await other.begin(better)).reserved == "w1"


@pytest.mark.parametrize("how", ["commit", "abort", "release", "grant"])
async def test_a_release_is_announced_to_all_gateways(store, other, server, raw, how):
    publish(raw, lease("w1"))
    began = await begun(store)
    pubsub = store._link.client.pubsub()
    await pubsub.subscribe(KEYS.wake)
    await pubsub.get_message(timeout=PATIENCE_SECONDS)
    if how == "grant":
        assert not await other.reserve(reservation(began, tokens=1000))
    await other.reserve(reservation(began))
    if how == "abort":
        await other.abort(began.descriptor.session_id, began.ref)
    elif how == "release":
        await other.release(reservation(began))
    elif how == "commit":
        await other.commit(commit_request(began.descriptor.session_id, began.ref, "step-1"))
    message = await pubsub.get_message(timeout=PATIENCE_SECONDS)
    await pubsub.aclose()
    assert message["type"] == "message"
    released = Wake(worker_id="w1", reserved_tokens=0, reserved_attempts=0, live_tokens=0)
    assert read_wake(message["data"]) == (Wake(line="") if how == "grant" else released)


async def test_only_the_first_of_a_line_is_heard_when_it_leaves(store, raw):
    publish(raw, lease("w1", capacity_tokens=5))
    places = []
    for _ in range(3):
        places.append(reservation(await begun(store), revision="rev-1"))
        assert not await store.reserve(places[-1])
        next_ms()
    assert await wakes_of_releases(raw, store, places[1], places[0]) == [Wake(line="rev-1"), Wake()]


async def test_wakes_tick_even_when_nothing_is_released(store):
    async with contextlib.aclosing(store.wakes(POOL)) as wakes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await anext(wakes)
    assert store._wakes._tasks == {}


async def test_many_who_wait_share_one_subscription(store, raw):
    woken = asyncio.Event()

    async def wait(first: asyncio.Event) -> None:
        async with contextlib.aclosing(store.wakes(POOL)) as wakes:
            await anext(wakes)
            first.set()
            while not woken.is_set():
                await anext(wakes)

    firsts = [asyncio.Event() for _ in range(5)]
    waiting = [asyncio.create_task(wait(first)) for first in firsts]
    await asyncio.gather(*[first.wait() for first in firsts])
    assert len(store._wakes._tasks) == 1
    assert dict(raw.pubsub_numsub(KEYS.wake))[KEYS.wake.encode()] == 1
    woken.set()
    await asyncio.gather(*waiting)
