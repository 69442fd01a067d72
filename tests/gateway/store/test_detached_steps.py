"""The records of detached steps, and the logs of their events."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from redis_servers import PATIENCE_SECONDS, RedisServer
from roost.contract.events import (
    ArgumentsPart,
    CallPart,
    Delta,
    Event,
    ReasoningPart,
    Started,
    TextPart,
)
from roost.contract.heads import AttemptRef, Head
from roost.contract.messages import JsonSchema, Message, MessageRole, Sampling, ToolCall
from roost.contract.names import new_session_id
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.steps import StepName, StepRequest
from roost.store.detached import (
    EVENTS_KEPT_MS,
    DetachedReport,
    DetachedState,
    DetachedStep,
    StepFailure,
)
from roost.store.interface import SessionStore
from roost.store.keys import PoolKeys
from roost.store.redis_store import RedisStore
from step_events import committed
from store_driver import LONG_MS, POOL, TENANT, Raw, begin_grace

FIRST, SECOND = b"1" * 16, b"2" * 16
OVER_MS = 1
"""A lease that has run out as soon as a millisecond is over."""
REF = AttemptRef(3, b"n" * 16)
DELTA = Delta("", [], 2, 5, attempt=REF, parts=(ReasoningPart("hm"), TextPart("é"), CallPart(0, "c", "read")))
EVENTS: tuple[Event, ...] = (
    Started("w1", 4, 2, REF),
    DELTA,
    replace(DELTA, parts=(ArgumentsPart(0, "{}"),), part_offset=4),
    replace(committed("é"), step_id="step"),
)


def detached(session_id: str = "") -> DetachedStep:
    messages = (
        Message(MessageRole.ASSISTANT, "", (ToolCall("c", "read", "{}"),)),
        Message(MessageRole.TOOL, "🦉", tool_call_id="c", name="read"),
    )
    sampling, constraint = Sampling(temperature=0.25, max_tokens=7, stop=("x",)), JsonSchema('{"type":"object"}')
    name = session_id or new_session_id(POOL)
    request = StepRequest(name, "step", messages, sampling, constraint, Head(12, b"h" * 16, 3))
    return DetachedStep(request, TENANT, {"é": [1, None]}, LONG_MS)


async def begun(store: SessionStore, lease_ms: int = LONG_MS) -> StepName:
    step = detached()
    assert await store.detached.begin(step, FIRST, lease_ms)
    return step.name


def report(name: StepName, first: int = 0, events: Sequence[Event] = (), **changes: Any) -> DetachedReport:
    defaults: dict[str, Any] = {
        "runner": FIRST,
        "state": DetachedState.IN_PROGRESS,
        "lease_ms": LONG_MS,
        "ttl_ms": LONG_MS,
    }
    return DetachedReport(name=name, first=first, events=events, **defaults | changes)


async def state_of(store: SessionStore, name: StepName) -> DetachedState:
    progress = await store.detached.read(name, TENANT)
    assert progress is not None
    return progress.state


async def until_lease_is_over(store: SessionStore, name: StepName) -> None:
    while True:
        progress = await store.detached.read(name, TENANT)
        if progress is None or not progress.is_run:
            return


async def test_another_gateway_has_all_that_is_needed_to_take_a_step_over(
    store: SessionStore, other: SessionStore
) -> None:
    step = detached()
    assert await store.detached.begin(step, FIRST, LONG_MS)
    assert await other.detached.find(step.name, TENANT) == step
    assert await other.detached.context(step.name, TENANT) == step.context
    progress = await other.detached.read(step.name, TENANT, 0)
    assert progress is not None
    assert (progress.state, progress.runner, progress.is_run) == (DetachedState.QUEUED, FIRST, True)
    assert (progress.is_cancelled, progress.logged, progress.events, progress.failure) == (False, 0, (), None)


async def test_events_are_read_as_they_were_logged_from_any_place_on(store: SessionStore, other: SessionStore) -> None:
    name = await begun(store)
    assert not await store.detached.report(report(name, 0, EVENTS[:1]))
    await store.detached.report(report(name, 1, EVENTS[1:]))
    for first in range(len(EVENTS) + 1):
        progress = await other.detached.read(name, TENANT, first)
        assert progress is not None
        assert (progress.logged, progress.events) == (len(EVENTS), EVENTS[first:])
    progress = await other.detached.read(name, TENANT)
    assert progress is not None
    assert progress.events == ()


async def test_a_report_that_is_sent_again_logs_nothing_twice(store: SessionStore) -> None:
    name = await begun(store)
    for sent in (report(name, 0, EVENTS[:2]), report(name, 0, EVENTS[:2]), report(name, 1, EVENTS[1:])):
        await store.detached.report(sent)
    over = report(name, 4, (), state=DetachedState.COMMITTED)
    await store.detached.report(over)
    await store.detached.report(over)
    progress = await store.detached.read(name, TENANT, 0)
    assert progress is not None
    assert progress.events == EVENTS


async def test_a_report_that_leaves_a_gap_is_refused(store: SessionStore) -> None:
    name = await begun(store)
    with pytest.raises(Refused):
        await store.detached.report(report(name, 1, EVENTS[1:]))


async def test_a_step_is_taken_over_once_when_the_lease_of_its_run_is_over(
    store: SessionStore, other: SessionStore
) -> None:
    name = await begun(store)
    assert not await other.detached.take_over(name, FIRST, SECOND, LONG_MS)
    await store.detached.report(report(name, 0, EVENTS[:1], lease_ms=OVER_MS))
    await until_lease_is_over(other, name)
    assert await other.detached.take_over(name, FIRST, SECOND, LONG_MS)
    assert await other.detached.take_over(name, FIRST, SECOND, LONG_MS), "the reply to the first call may be lost"
    assert not await store.detached.take_over(name, FIRST, b"3" * 16, LONG_MS)
    with pytest.raises(Refused) as refusal:
        await store.detached.report(report(name, 1, EVENTS[1:2]))
    assert refusal.value.reason is Reason.ATTEMPT_FENCED
    await other.detached.report(report(name, 1, EVENTS[1:], runner=SECOND))
    progress = await store.detached.read(name, TENANT, 0)
    assert progress is not None
    assert (progress.events, progress.first_runner, progress.runner) == (EVENTS, FIRST, SECOND)


async def test_a_lease_that_is_given_back_lets_another_run_begin_at_once(store: SessionStore) -> None:
    name = await begun(store)
    await store.detached.report(report(name, lease_ms=0))
    progress = await store.detached.read(name, TENANT)
    assert progress is not None
    assert not progress.is_run
    assert await store.detached.take_over(name, FIRST, SECOND, LONG_MS)


@pytest.mark.parametrize("state", [DetachedState.COMMITTED, DetachedState.FAILED, DetachedState.CANCELLED])
async def test_a_step_that_is_over_is_not_taken_over(store: SessionStore, state: DetachedState) -> None:
    name = await begun(store)
    failure = StepFailure(Reason.QUEUE_TIMEOUT, "waited: too long")
    failure_or_none = failure if state is DetachedState.FAILED else None
    await store.detached.report(report(name, state=state, failure=failure_or_none, lease_ms=0))
    assert not await store.detached.take_over(name, FIRST, SECOND, LONG_MS)
    await store.detached.cancel(name, TENANT)
    progress = await store.detached.read(name, TENANT)
    assert progress is not None
    assert (progress.state, progress.failure, progress.is_cancelled) == (state, failure_or_none, False)


@pytest.mark.parametrize("state", list(DetachedState))
async def test_a_record_makes_room_only_when_its_step_came_to_nothing(
    store: SessionStore, state: DetachedState
) -> None:
    step = detached()
    await store.detached.begin(step, FIRST, LONG_MS)
    await store.detached.report(report(step.name, 0, EVENTS[:1], state=state))
    makes_room = state in (DetachedState.FAILED, DetachedState.CANCELLED)
    assert await store.detached.begin(replace(step, context={}), SECOND, LONG_MS) == makes_room
    progress, kept = await store.detached.read(step.name, TENANT, 0), await store.detached.find(step.name, TENANT)
    assert progress is not None
    assert kept is not None
    assert progress.first_runner == (SECOND if makes_room else FIRST)
    if makes_room:
        assert (progress.state, progress.events, kept.context) == (DetachedState.QUEUED, (), {})
    else:
        assert (progress.state, progress.events, kept) == (state, EVENTS[:1], step)


async def test_a_run_hears_that_its_client_wants_the_end(store: SessionStore, other: SessionStore) -> None:
    name = await begun(store)
    await other.detached.cancel(name, TENANT)
    assert await store.detached.report(report(name))
    assert await state_of(store, name) is DetachedState.IN_PROGRESS


async def test_at_the_hard_limit_of_memory_a_step_is_still_taken_over_and_cancelled(
    fresh: SessionStore, fresh_redis: RedisServer
) -> None:
    name = await begun(fresh, lease_ms=0)
    with fresh_redis.client() as raw:
        raw.config_set("maxmemory", 1)
    assert await fresh.detached.take_over(name, FIRST, SECOND, LONG_MS)
    await fresh.detached.cancel(name, TENANT)
    assert await fresh.detached.report(report(name, events=EVENTS, runner=SECOND))


async def test_another_tenants_step_does_not_exist(store: SessionStore) -> None:
    name = await begun(store)
    assert await store.detached.find(name, "mallory") is None
    assert await store.detached.context(name, "mallory") is None
    assert await store.detached.read(name, "mallory", 0) is None
    await store.detached.cancel(name, "mallory")
    assert not await store.detached.report(report(name))


@pytest.mark.parametrize("step_id", ["", "step:events", "é\ud800", "x" * 10_000])
async def test_a_step_that_was_never_detached_does_not_exist(store: SessionStore, step_id: str) -> None:
    name = replace(await begun(store), step_id=step_id)
    assert await store.detached.find(name, TENANT) is None
    assert await store.detached.context(name, TENANT) is None
    assert await store.detached.read(name, TENANT, 0) is None
    assert not await store.detached.take_over(name, FIRST, SECOND, LONG_MS)
    await store.detached.cancel(name, TENANT)
    with pytest.raises(Refused):
        await store.detached.report(report(name))


async def test_a_forgotten_step_does_not_exist(store: SessionStore) -> None:
    name = await begun(store)
    await store.detached.report(report(name, 0, EVENTS[:1]))
    await store.detached.forget(name)
    assert await store.detached.find(name, TENANT) is None
    await store.detached.begin(detached(name.session_id), FIRST, LONG_MS)
    progress = await store.detached.read(name, TENANT, 0)
    assert progress is not None
    assert progress.events == ()


async def test_a_report_wakes_those_who_wait_for_news(store: SessionStore, other: SessionStore) -> None:
    name = await begun(store)
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for _ in other.detached.news(name):
            if await state_of(other, name) is DetachedState.IN_PROGRESS:
                break
            await store.detached.report(report(name))


async def test_events_go_some_time_after_the_end_and_the_record_later(store: SessionStore, raw: Raw) -> None:
    name, minute = await begun(store), 60_000
    keys = PoolKeys(POOL).detached(name.session_id, name.step_id)
    await store.detached.report(report(name, 0, EVENTS[:1]))
    for key in (keys.record, keys.events):
        assert LONG_MS - minute < raw.pttl(key) <= LONG_MS
    await store.detached.report(report(name, 1, EVENTS[1:], state=DetachedState.COMMITTED))
    assert LONG_MS - minute < raw.pttl(keys.record) <= LONG_MS
    assert EVENTS_KEPT_MS - minute < raw.pttl(keys.events) <= EVENTS_KEPT_MS
    raw.delete(keys.events)
    progress = await store.detached.read(name, TENANT, 0)
    assert progress is not None
    assert (progress.logged, progress.events) == (len(EVENTS), ())


async def test_while_the_store_has_just_come_back_no_lease_runs_out(store: RedisStore, raw: Raw) -> None:
    """Its holder lives, and could not renew it. A lease that was given back is free all the same."""
    name = await begun(store, OVER_MS)
    await until_lease_is_over(store, name)
    begin_grace(store)
    progress = await store.detached.read(name, TENANT)
    assert progress is not None
    assert progress.is_run
    assert not await store.detached.take_over(name, FIRST, SECOND, LONG_MS)
    await store.detached.report(report(name, lease_ms=0))
    progress = await store.detached.read(name, TENANT)
    assert progress is not None
    assert not progress.is_run
    assert await store.detached.take_over(name, FIRST, SECOND, LONG_MS)
