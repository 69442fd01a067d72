"""What is logged of a detached step: all that its clients get, in an order that no second run changes."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.contract.events import (
    ArgumentsPart,
    CallPart,
    Committed,
    Delta,
    Event,
    Migrated,
    Part,
    Queued,
    ReasoningPart,
    Restarted,
    Started,
    TextPart,
)
from roost.contract.heads import AttemptRef, Head
from roost.contract.parts import PartLog, joined, units
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.detached import DetachedState
from roost_gateway.core import detached_log
from roost_gateway.core.detached_log import EventsToLog
from roost_gateway.core.shared_steps import cursor_after
from step_events import STARTED, committed

PARTS: tuple[Part, ...] = (
    ReasoningPart("hm"),
    TextPart("é owl"),
    CallPart(0, "c", "read"),
    ArgumentsPart(0, "{}"),
    TextPart("!"),
)
FIRST, SECOND = AttemptRef(1, b"1" * 16), AttemptRef(2, b"2" * 16)
RESTARTED = Restarted("lost", SECOND)


def letters(parts: Sequence[Part]) -> list[Part]:
    """The parts, one unit each."""
    return [
        each
        for part in parts
        for each in (
            [part] if isinstance(part, CallPart) else [replace(part, text=character) for character in part.text]
        )
    ]


def deltas(cuts: Sequence[int], attempt: AttemptRef = FIRST, parts: Sequence[Part] = PARTS) -> list[Delta]:
    """The output, cut after so many units; each unit is a token, and its text `é`."""
    units, output = letters(parts), list[Delta]()
    ends = sorted({*(cut for cut in cuts if 0 < cut < len(units)), len(units)})
    for start, end in pairwise([0, *ends]):
        text = "é" * (end - start)
        ids = range(start, end)
        output.append(Delta(text, ids, start, 2 * start, (), attempt, joined(units[start:end]), start))
    return output


def logged(*events: Event, batches: Sequence[int] = (), before: Sequence[Event] = ()) -> list[Event]:
    """What is logged when the events that wait are taken after these numbers of events, and in the end."""
    log, taken = EventsToLog(is_streamed=True, logged=before), list[Event]()
    for number, event in enumerate(events):
        log.add(event)
        if number in batches:
            taken += log.take()
    return taken + log.take()


def output(events: Sequence[Event]) -> tuple[Part, ...]:
    """The parts of an output, whose offsets have neither gap nor overlap."""
    log = PartLog()
    for event in events:
        if isinstance(event, Delta):
            assert event.part_offset == log.size
            log.extend(event.parts)
    return log.after(0)


CUTS = st.lists(st.integers(0, 12), max_size=6)


@given(CUTS, CUTS)
def test_the_whole_output_is_logged_however_it_comes_and_is_taken(cuts: list[int], batches: list[int]) -> None:
    last = committed("x")
    events = logged(STARTED, *deltas(cuts), last, batches=batches)
    assert output(events) == PARTS
    assert (events[0], events[-1]) == (STARTED, last)
    assert all(isinstance(event, Delta) and not event.text and not event.token_ids for event in events[1:-1])


@given(CUTS, CUTS, st.integers(0, 12))
def test_a_run_that_takes_over_knows_where_the_log_ends(cuts: list[int], batches: list[int], count: int) -> None:
    given_deltas = deltas(cuts)[: count + 1]
    events = [event for event in logged(*given_deltas, batches=batches) if isinstance(event, Delta)]
    assert cursor_after(events[-1]) == cursor_after(given_deltas[-1])


def test_events_that_come_together_are_logged_together() -> None:
    first, second, third = deltas([2, 5])
    events = logged(first, second, third, batches=[0])
    together = joined((*second.parts, *third.parts))
    assert [event.parts for event in events if isinstance(event, Delta)] == [first.parts, together]


def test_what_no_client_gets_is_not_logged() -> None:
    assert logged(Queued(3), Migrated("a", "b", 2, Head()), STARTED) == [STARTED]


def test_of_a_step_whose_events_nobody_follows_only_the_state_is_kept() -> None:
    log = EventsToLog(is_streamed=False)
    reported = []
    for event in (Queued(1), STARTED, STARTED, *deltas([3]), RESTARTED, committed("x")):
        log.add(event)
        reported += [log.state] if log else []
        assert log.take() == []
    assert reported == [DetachedState.IN_PROGRESS]


@given(CUTS, CUTS, st.integers(0, 12), st.booleans())
def test_output_that_starts_again_is_logged_from_where_the_log_ends(
    cuts: list[int], again: list[int], count: int, in_another_run: bool
) -> None:
    """Whether it starts again within a run, or in one that has taken over."""
    before: list[Event] = [STARTED, *deltas(cuts)[:count]]
    rest: list[Event] = [RESTARTED, replace(STARTED, attempt=SECOND), *deltas(again, SECOND), committed("x")]
    if in_another_run:
        before = logged(*before)
        events = before + logged(*rest, before=before)
    else:
        events = logged(*before, *rest)
    assert output(events) == PARTS
    last = [event for event in events if isinstance(event, Delta)][-1]
    assert last.attempt in (FIRST, SECOND)
    assert isinstance(events[-1], Committed)


@pytest.mark.parametrize(
    "other",
    [
        (ReasoningPart("hm"), TextPart("é own")),
        (TextPart("hmé owl"), TextPart("!")),
        (ReasoningPart("hm"), TextPart("é")),
        (),
    ],
)
def test_output_that_differs_when_it_is_written_again_ends_the_step(other: tuple[Part, ...]) -> None:
    kept: list[Event] = [STARTED, *deltas([], parts=(ReasoningPart("hm"), TextPart("é owl")))]
    again: list[Event] = list(deltas([2], SECOND, other)) if other else []
    with pytest.raises(Refused) as refusal:
        logged(*kept, RESTARTED, *again, committed("x"))
    assert refusal.value.reason is Reason.WORKER_LOST


def test_before_any_output_a_start_is_as_good_as_another() -> None:
    events = logged(STARTED, RESTARTED, *deltas([4], SECOND))
    assert output(events) == PARTS


def test_an_output_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached_log, "MOST_LOGGED_BYTES", 2 * sum(map(units, PARTS)))
    assert output(logged(*deltas([3]))) == PARTS
    monkeypatch.setattr(detached_log, "MOST_LOGGED_BYTES", 2 * sum(map(units, PARTS)) - 1)
    with pytest.raises(Refused) as refusal:
        logged(*deltas([3]))
    assert "without `stream`" in refusal.value.message


def test_a_step_is_in_progress_once_a_worker_has_begun_it() -> None:
    log = EventsToLog(is_streamed=True)
    assert log.state is DetachedState.QUEUED
    log.add(Started("w", 1, 0))
    assert log.state is DetachedState.IN_PROGRESS
