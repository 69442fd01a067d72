"""The working set in Redis: which sessions are live, what they need, and whom the gate lets in."""

import pytest

from redis_servers import PATIENCE_SECONDS
from roost.contract.heads import Head
from roost.store.entry import Entry
from roost.store.keys import PoolKeys
from roost.store.records import Began
from roost.store.rules import RESIDENCY_DELAY_MS
from roost.store.wakes import read_wake
from roost.store.working_set import HELD, IDLE_MS, LONGEST_PAUSE_MS, START_TARGET, Admission
from store_driver import (
    POOL,
    REVISION,
    TENANT,
    begin_request,
    commit_request,
    fold_request,
    lease,
    live_sessions,
    live_target,
    migrate_request,
    new_session,
    publish,
    publish_cached,
    redis_ms,
    reservation,
)

KEYS = PoolKeys(POOL)
GATED, PASSED = Entry(Admission.GATED), Entry(Admission.PASSED)


async def begun(store, session_id: str = "", step_id: str = "step-1", entry: Entry = GATED, **fields) -> Began:
    session_id = session_id or (await store.open(new_session())).session_id
    return await store.begin(begin_request(session_id, step_id, entry=entry, **fields))


async def admitted(store, tokens: int, **fields) -> Began:
    began = await begun(store, **fields)
    assert await store.reserve(reservation(began, tokens=tokens, entry=GATED))
    return began


async def committed(store, raw, began: Began, prompt: int = 3) -> Head:
    """Commits a step, whose log its worker then publishes as cached."""
    request = commit_request(
        began.descriptor.session_id, began.ref, "step-1", began.descriptor.head, tuple(range(prompt))
    )
    head = (await store.commit(request)).head
    publish_cached(raw, began.descriptor.session_id, tokens=head.length)
    return head


def short(began: Began) -> str:
    return began.descriptor.session_id.rpartition("/")[2]


async def test_the_gate_is_open_up_to_the_targets_part_of_a_workers_kv(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    await admitted(store, 50)
    too_much = await begun(other)
    answer = await other.reserve(reservation(too_much, tokens=31, entry=GATED))
    assert not answer
    assert (answer.held, answer.live_tokens, answer.live_limit) == (True, 50, START_TARGET // 10)
    assert 0 < answer.first_end_ms <= IDLE_MS
    assert [line.decode()[0] for line in raw.zrange(KEYS.lines, 0, -1)] == [HELD]
    assert await other.reserve(reservation(too_much, tokens=30, entry=GATED))
    assert (await store.workers(POOL))[0].live_tokens == 80


async def test_a_session_stays_live_between_its_steps_and_its_steps_pass(store, raw):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    first = await admitted(store, 79)
    await committed(store, raw, first)
    assert live_sessions(raw)[short(first)][1].tokens == 5
    await admitted(store, 75)
    again = await begun(store, first.descriptor.session_id, "step-2", new_tokens=20)
    assert (again.reserved, again.gated) == ("w1", False)
    assert (await begun(store)).gated


async def test_an_empty_worker_takes_a_session_of_any_size(store, raw):
    publish(raw, lease("w1", capacity_tokens=100))
    await admitted(store, 99)


async def test_a_step_that_was_held_for_long_passes_the_gate(store, raw):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    await admitted(store, 70)
    held = await begun(store)
    assert not await store.reserve(reservation(held, tokens=20, entry=GATED))
    assert await store.reserve(reservation(held, tokens=20, entry=PASSED))
    assert (await store.workers(POOL))[0].live_tokens == 90


@pytest.mark.parametrize("how", ["close", "delete", "evict", "abort"])
async def test_what_a_session_needed_is_given_back_and_announced(store, other, raw, how):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    running = await admitted(store, 70)
    session_id = running.descriptor.session_id
    if how != "abort":
        await committed(store, raw, running)
    pubsub = raw.pubsub()
    pubsub.subscribe(KEYS.wake)
    assert pubsub.get_message(timeout=PATIENCE_SECONDS)["type"] == "subscribe"
    if how == "abort":
        await other.abort(session_id, running.ref)
    else:
        await getattr(other, how)(session_id, TENANT)
    wake = read_wake(pubsub.get_message(timeout=PATIENCE_SECONDS)["data"])
    pubsub.close()
    assert (wake.worker_id, wake.live_tokens) == ("w1", 0)
    assert live_sessions(raw) == {}


async def test_what_a_hold_says_counts_until_something_newer_is_said(store, raw):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    running = await admitted(store, 20)
    session_id, head = running.descriptor.session_id, await committed(store, raw, running)

    def left_ms() -> float:
        return raw.zscore(KEYS.live_ends, short(running)) - redis_ms(raw)

    assert IDLE_MS - 10_000 < left_ms() <= IDLE_MS
    await store.hold(session_id, TENANT, "build", 9999.0, head)
    assert LONGEST_PAUSE_MS - 10_000 < left_ms() <= LONGEST_PAUSE_MS
    await store.hold(session_id, TENANT, "build", 7.0, head)
    assert 0 < left_ms() <= 7000
    await begun(store, session_id, "step-2")
    assert IDLE_MS - 10_000 < left_ms() <= IDLE_MS


async def test_a_session_whose_gateway_died_is_forgotten_after_its_time(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    dead = await admitted(store, 70, lease_ms=0)
    held = await begun(other)
    assert not await other.reserve(reservation(held, tokens=20, entry=GATED))
    raw.zadd(KEYS.live_ends, {short(dead): redis_ms(raw) - 1})
    assert (await other.workers(POOL))[0].live_tokens == 0
    assert live_sessions(raw) == {}
    assert raw.zcard(KEYS.live_shares) == 0


async def test_equal_prefixes_and_what_a_family_shares_count_once(store, raw):
    publish(raw, lease("w1", capacity_tokens=1000, max_running=9))
    with_prefix = Entry(Admission.GATED, "ab", 30)
    for tokens in (50, 40):
        began = await begun(store, entry=with_prefix)
        assert await store.reserve(reservation(began, tokens=tokens, entry=with_prefix))
    assert (await store.workers(POOL))[0].live_tokens == 60


async def test_a_live_session_that_was_evicted_has_to_pass_the_gate_again(store, raw):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    running = await admitted(store, 60)
    await committed(store, raw, running, prompt=48)
    publish_cached(raw, running.descriptor.session_id, tokens=10)
    raw.hset(KEYS.session(running.descriptor.session_id), "updated", redis_ms(raw) - 2 * RESIDENCY_DELAY_MS)
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    await admitted(store, 20)
    assert (await begun(store, running.descriptor.session_id, "step-2", new_tokens=30)).gated
    assert live_target(raw)[0] == START_TARGET * 9 // 10, "four fifths of its log are lost"


async def test_a_session_that_lost_its_log_while_its_step_waited_has_to_pass_the_gate(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    running = await admitted(store, 60)
    head = await committed(store, raw, running, prompt=48)
    busy = await begun(store, entry=PASSED)
    assert await store.reserve(reservation(busy, tokens=70, entry=PASSED))
    waits = await begun(other, running.descriptor.session_id, "step-2", new_tokens=30)
    assert (waits.reserved, waits.gated) == ("", False)
    held = await other.reserve(reservation(waits, tokens=80, entry=GATED, lost_tokens=40))
    assert not held
    assert held.held, "its session is not live any more"
    assert short(running) not in live_sessions(raw)
    assert live_target(raw)[0] == START_TARGET * 9 // 10, "most of its log is lost"
    assert [line.decode()[0] for line in raw.zrange(KEYS.lines, 0, -1)] == [HELD]
    await store.abort(busy.descriptor.session_id, busy.ref)
    again = await other.reserve(reservation(waits, tokens=head.length + 30, entry=GATED, lost_tokens=40))
    assert again, "the gate is open where nothing is live"
    repeated = await other.reserve(reservation(waits, tokens=head.length + 30, entry=GATED, lost_tokens=40))
    assert repeated
    assert live_sessions(raw)[short(running)][1].tokens == head.length + 30, "what has reserved has not lost it again"


@pytest.mark.parametrize(("rebuilt", "gated"), [(25, False), (26, True)])
async def test_a_session_that_computed_most_of_its_log_again_has_to_pass_the_gate_again(store, raw, rebuilt, gated):
    """Its Begin came before the worker had published that most of its log was evicted."""
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    running = await admitted(store, 60)
    head = await committed(store, raw, running, prompt=48)
    assert head.length == 50
    session_id = running.descriptor.session_id
    again = await begun(store, session_id, "step-2", new_tokens=5)
    assert again.reserved == "w1"
    await store.commit(commit_request(session_id, again.ref, "step-2", head, (1, 2), reconstructed_tokens=rebuilt))
    assert (short(running) not in live_sessions(raw)) == gated
    await admitted(store, 15)
    assert (await begun(store, session_id, "step-3", new_tokens=60)).gated == gated


async def test_held_steps_wait_for_all_that_need_room_and_keep_nobody_from_it(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    await admitted(store, 60)
    old = await begun(store, entry=PASSED)
    held = await begun(store)
    assert not await store.reserve(reservation(held, tokens=30, entry=GATED, priority=0))
    assert await other.reserve(reservation(old, tokens=40, entry=PASSED, priority=9)), "the held step is before it"
    waits = await begun(store, entry=PASSED)
    assert not await store.reserve(reservation(waits, tokens=1, entry=PASSED, priority=9))
    await store.abort(old.descriptor.session_id, old.ref)
    assert not await other.reserve(reservation(held, tokens=5, entry=GATED, priority=0)), "a step waits for room"
    assert await store.reserve(reservation(waits, tokens=1, entry=PASSED, priority=9))
    assert await other.reserve(reservation(held, tokens=5, entry=GATED, priority=0))


async def test_steps_of_gateways_that_do_not_count_leave_the_sums_right(store, other, raw):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    running = await admitted(store, 20)
    await committed(store, raw, running)
    uncounted = await begun(other, running.descriptor.session_id, "step-2", entry=Entry())
    assert uncounted.reserved == "w1"
    await other.abort(running.descriptor.session_id, uncounted.ref)
    assert live_sessions(raw)[short(running)][1].tokens == 5


async def test_what_a_new_generation_changes_does_not_count_as_lost(store, raw):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    running = await admitted(store, 20)
    await committed(store, raw, running, prompt=10)
    session_id = running.descriptor.session_id
    again = await begun(store, session_id, "step-2")
    assert again.reserved == "w1"
    entries = await store.log(session_id, 1, 0, 9)
    head = (await store.migrate(migrate_request(again, entries, revision=REVISION))).head
    target = live_target(raw)
    request = commit_request(session_id, again.ref, "step-2", head, (1, 2), reconstructed_tokens=head.length)
    await store.commit(request)
    assert live_target(raw) == target


async def test_a_folded_session_needs_its_new_log_only(store, raw):
    publish(raw, lease("w1", capacity_tokens=100, max_running=9))
    running = await admitted(store, 60)
    await committed(store, raw, running, prompt=48)
    fold = await begun(store, running.descriptor.session_id, "fold")
    entries = await store.log(running.descriptor.session_id, 1, 0, 9)
    folded = await store.migrate(fold_request(fold, entries, 1))
    assert (await store.workers(POOL))[0].live_tokens == folded.head.length
    assert live_sessions(raw)[short(running)][1].tokens == folded.head.length
