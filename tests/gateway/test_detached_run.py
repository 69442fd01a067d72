"""One gateway's run of a detached step, over a store that is away now and then."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_driver import LIMIT_SECONDS
from roost.contract.events import Delta, Event, Started, TextPart
from roost.contract.heads import Head
from roost.contract.messages import Message, MessageRole
from roost.contract.parts import PartLog
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.steps import StepName, StepRequest
from roost.store.conversation_index import IndexEntry
from roost.store.detached import DetachedProgress, DetachedReport, DetachedState, DetachedStep, StepFailure
from roost.store.memory_detached import MemoryDetachedSteps
from roost.store.records import StoreAwayError
from roost_gateway.core import detached_run
from roost_gateway.core.begun_step import BegunStep
from roost_gateway.core.caller import ANYONE
from roost_gateway.core.detached import DetachedConversations
from roost_gateway.core.detached_run import LEASE_MS, DetachedEnd, DetachedRun
from roost_gateway.recognition.conversation import Conversation
from roost_gateway.recognition.turn import turn
from step_events import RECOGNISED, STARTED, committed

RUNNER, OTHER = b"1" * 16, b"2" * 16
TEXT = "a long answer"
COMMITTED = DetachedEnd(DetachedState.COMMITTED)


@dataclass
class FlakyStore(MemoryDetachedSteps):
    """Loses requests, or replies to them."""

    losses: list[str] = field(default_factory=list)
    """What is lost of the next reports: "request", "reply" or nothing."""
    seen: list[DetachedReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(lambda: 0)

    async def report(self, report: DetachedReport) -> bool:
        self.seen.append(report)
        loss = self.losses.pop(0) if self.losses else ""
        await asyncio.sleep(0)
        if loss == "request":
            raise StoreAwayError("lost")
        is_cancelled = await super().report(report)
        if loss == "reply":
            raise StoreAwayError("lost")
        return is_cancelled


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports follow each other without a pause."""
    monkeypatch.setattr(detached_run, "LEASE_PERIOD_SECONDS", 0.0)
    monkeypatch.setattr(detached_run, "PACE_SECONDS", 0.0)


async def begin(store: MemoryDetachedSteps, former: DetachedProgress | None = None) -> DetachedRun:
    request = StepRequest(RECOGNISED.session_id, RECOGNISED.step_id, (Message(MessageRole.USER, "hi"),))
    step = DetachedStep(request, ANYONE.tenant, {}, 1000)
    if former is None:
        assert await store.begin(step, RUNNER, LEASE_MS)
    asked = turn(Conversation("m", messages=request.messages), ANYONE.tenant, "p")
    begun = BegunStep(asked, IndexEntry(RECOGNISED.session_id, Head(), 0, b"", b""), RECOGNISED)
    return DetachedRun(store, step, RUNNER, begun, ANYONE, is_streamed=True, former=former)


async def progress_of(store: MemoryDetachedSteps, run: DetachedRun) -> DetachedProgress:
    progress = await store.read(run.step.name, ANYONE.tenant, 0)
    assert progress is not None
    return progress


async def played(events: Sequence[Event], pauses: Sequence[bool] = ()) -> AsyncIterator[Event]:
    for number, event in enumerate(events):
        if number < len(pauses) and pauses[number]:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        yield event


def letters() -> list[Event]:
    return [Delta(letter, [at], at, at, parts=(TextPart(letter),), part_offset=at) for at, letter in enumerate(TEXT)]


def text_of(events: Sequence[Event]) -> str:
    log = PartLog()
    for event in events:
        if isinstance(event, Delta):
            assert event.part_offset == log.size
            log.extend(event.parts)
    return "".join(part.text for part in log.after(0) if isinstance(part, TextPart))


@given(st.lists(st.sampled_from(["", "request", "reply"]), max_size=30), st.lists(st.booleans(), max_size=16))
def test_every_event_is_logged_once_whatever_the_store_loses(losses: list[str], pauses: list[bool]) -> None:
    async def run_step() -> None:
        store = FlakyStore(losses=losses)
        run = await begin(store)
        reading = asyncio.create_task(run.read(played([STARTED, *letters(), committed(TEXT)], pauses)))
        await run.attend(reading)
        await run.end(COMMITTED)
        progress = await progress_of(store, run)
        assert text_of(progress.events) == TEXT
        assert (progress.events[0], progress.events[-1]) == (STARTED, committed(TEXT))
        assert progress.state is DetachedState.COMMITTED
        ends = [report.state.is_over for report in store.seen]
        assert ends == sorted(ends), "what has ended is not reported as running again"

    asyncio.run(run_step())


async def test_a_run_whose_step_was_taken_over_writes_nothing_more() -> None:
    store = MemoryDetachedSteps(lambda: 0)
    run = await begin(store)
    await run.hand_over()
    assert await store.take_over(run.step.name, RUNNER, OTHER, LEASE_MS)
    with pytest.raises(Refused) as refusal:
        await run.end(COMMITTED)
    assert refusal.value.reason is Reason.ATTEMPT_FENCED
    assert (await progress_of(store, run)).state is DetachedState.QUEUED


async def test_a_run_that_takes_over_continues_the_log() -> None:
    store = MemoryDetachedSteps(lambda: 0)
    first = await begin(store)
    await first.read(played([STARTED, *letters()[:5]]))
    await first.hand_over()
    former = await progress_of(store, first)
    second = await begin(store, former)
    assert second.received == first.received
    assert second.received is not None
    assert (second.received.tokens, second.received.parts) == (5, 5)
    await second.hand_over()
    assert (await progress_of(store, second)).state is DetachedState.IN_PROGRESS
    await second.read(played([*letters()[5:], committed(TEXT)]))
    await second.end(COMMITTED)
    after = await progress_of(store, second)
    assert after.events[: former.logged] == former.events
    assert text_of(after.events) == TEXT


async def test_a_step_is_left_when_its_client_wants_the_end() -> None:
    store = MemoryDetachedSteps(lambda: 0)
    run = await begin(store)
    reading = asyncio.create_task(asyncio.Event().wait())
    attending = asyncio.create_task(run.attend(reading))  # type: ignore[arg-type]
    await store.cancel(run.step.name, ANYONE.tenant)
    async with asyncio.timeout(LIMIT_SECONDS):
        await attending
    assert reading.cancelled()
    assert run.is_cancelled


async def test_why_a_step_failed_is_reported() -> None:
    store, failure = MemoryDetachedSteps(lambda: 0), StepFailure(Reason.NO_WORKER, "none")
    run = await begin(store)
    await run.end(DetachedEnd(DetachedState.FAILED, failure))
    progress = await progress_of(store, run)
    assert (progress.state, progress.failure, progress.is_run) == (DetachedState.FAILED, failure, False)


async def test_a_store_that_stays_away_leaves_the_end_to_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached_run, "PATIENCE_SECONDS", 0.0)
    run = await begin(FlakyStore(losses=["request"] * 100))
    with pytest.raises(StoreAwayError):
        await run.end(COMMITTED)


class OlderStore(MemoryDetachedSteps):
    """As a gateway reads that does not know `Started`."""

    async def read(self, name: StepName, tenant: str, first: int | None = None) -> DetachedProgress | None:
        progress = await super().read(name, tenant, first)
        assert progress is not None
        return replace(progress, events=tuple(event for event in progress.events if not isinstance(event, Started)))


async def test_events_that_a_gateway_does_not_know_are_passed_over_while_the_step_runs() -> None:
    nothing: Any = None
    store = OlderStore(lambda: 0)
    run = await begin(store)
    await run.attend(asyncio.create_task(run.read(played([STARTED]))))
    async with aclosing(DetachedConversations(nothing, nothing, nothing, store).follow(run.step.name, ANYONE)) as news:
        assert (await anext(news)).events == ()
        await run.read(played([committed(TEXT)]))
        await run.end(COMMITTED)
        assert (await anext(news)).events == (committed(TEXT),)


async def test_a_stream_does_not_go_on_with_the_events_of_another_run_from_the_start() -> None:
    """Its step has failed and was begun once more between two reads."""
    nothing: Any = None
    store = MemoryDetachedSteps(lambda: 0)
    run = await begin(store)
    await run.attend(asyncio.create_task(run.read(played([STARTED]))))
    async with aclosing(DetachedConversations(nothing, nothing, nothing, store).follow(run.step.name, ANYONE)) as news:
        assert (await anext(news)).events == (STARTED,)
        await run.end(DetachedEnd(DetachedState.FAILED, StepFailure(Reason.NO_WORKER, "none")))
        assert await store.begin(run.step, OTHER, LEASE_MS)
        events = (STARTED, committed(TEXT))
        report = DetachedReport(run.step.name, OTHER, DetachedState.IN_PROGRESS, 0, events, LEASE_MS, 1000)
        assert not await store.report(report)
        with pytest.raises(Refused) as refusal:
            await anext(news)
    assert refusal.value.reason is Reason.INVALID_REQUEST


async def test_a_gateway_that_stops_does_not_say_that_a_step_was_cancelled() -> None:
    """The step that it has left may be in the middle of its commit."""
    store = MemoryDetachedSteps(lambda: 0)
    asked = turn(Conversation("m"), ANYONE.tenant, "p")
    begun = BegunStep(asked, IndexEntry(RECOGNISED.session_id, Head(), 0, b"", b""), RECOGNISED)
    request = StepRequest(RECOGNISED.session_id, asked.step_id, ())
    context = {"begun": begun.document(), "echo": {}, "created": 0.0, "isStreamed": False}
    step = DetachedStep(request, ANYONE.tenant, context, 1000)
    await store.begin(step, RUNNER, 0)
    await store.cancel(step.name, ANYONE.tenant)

    class StoppingConversations:
        @asynccontextmanager
        async def resume(self, *_: object) -> AsyncIterator[None]:
            detached.close()
            raise Refused(Reason.WORKER_DRAINING, "this gateway is stopping")
            yield

    nothing: Any = None
    conversations: Any = StoppingConversations()
    detached = DetachedConversations(conversations, nothing, nothing, store)
    await detached.progress(step.name, ANYONE)
    await detached.finish()
    progress = await store.read(step.name, ANYONE.tenant)
    assert progress is not None
    assert (progress.state, progress.is_cancelled, progress.is_run) == (DetachedState.QUEUED, True, False)
    assert progress.runner != RUNNER
