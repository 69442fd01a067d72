"""Which paused session an idle home rebuilds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.store.holds import HoldRecord
from roost.store.residency import Residency
from roost_gateway.moving import paused
from roost_gateway.moving.paused import (
    LEAD_SECONDS,
    LEAST_TOKENS,
    MOST_READ,
    PASSED_OVER_SECONDS,
    SETTLE_SECONDS,
    PausedSession,
    PausedSessions,
    has_time,
)
from roost_gateway.routing.choice import WorkerState
from routing_oracle import worker_of

HOME = worker_of("home", capacity_tokens=10_000, prefill_rate=100.0, idle=True)


def session(name: str, *, begin: float = 0.0, expect: float = 20.0, tokens: int = 1000) -> PausedSession:
    return PausedSession(name, "tenant", "home", tokens, HoldRecord("tool", expect, round(begin * 1000)), begin)


def remembered(*sessions: PausedSession) -> PausedSessions:
    sessions_on_hold = PausedSessions()
    for each in sessions:
        sessions_on_hold.add(each)
    return sessions_on_hold


def at_home(on_hold: PausedSessions, now: float) -> list[PausedSession]:
    return list(on_hold.expected([HOME], now).get("home", []))


def names(sessions: list[PausedSession]) -> list[str]:
    return [each.session_id for each in sessions]


sessions = st.builds(
    PausedSession,
    st.sampled_from("abcdefgh"),
    st.just("tenant"),
    st.sampled_from(("home", "another")),
    st.integers(1, 20_000),
    st.builds(HoldRecord, st.just(""), st.sampled_from((0.5, 30.0, 600.0)), st.just(0)),
    st.floats(0, 1000),
)


@given(st.lists(sessions), st.floats(0, 2000))
def test_each_homes_sessions_come_by_when_they_are_expected(pauses: list[PausedSession], now: float) -> None:
    on_hold = remembered(*pauses)
    expected = at_home(on_hold, now)
    latest = {each.session_id: each for each in pauses}
    able = [each for each in latest.values() if each.home == "home" and each.end > now and each.is_soon(HOME, now)]
    assert sorted(names(expected)) == sorted(names(able))
    assert [each.due for each in expected] == sorted(each.due for each in able)
    assert len(on_hold) == sum(each.end > now for each in latest.values()), "what is over is forgotten"


def test_a_rebuild_begins_when_there_is_time_for_two() -> None:
    on_hold = remembered(session("s", expect=600.0))
    begin = 600.0 - LEAD_SECONDS - 2 * 1000 / 100.0
    assert names(at_home(on_hold, begin - 0.1)) == []
    assert names(at_home(on_hold, begin)) == ["s"]


def test_what_a_home_published_before_the_pause_is_not_believed() -> None:
    on_hold = remembered(session("s", begin=10.0))
    assert names(at_home(on_hold, 10.0 + SETTLE_SECONDS - 0.1)) == []
    assert names(at_home(on_hold, 10.0 + SETTLE_SECONDS)) == ["s"]


def test_a_session_is_waited_for_twice_as_long_as_it_said() -> None:
    on_hold = remembered(session("s", expect=20.0))
    assert names(at_home(on_hold, 39.0)) == ["s"]
    assert names(at_home(on_hold, 40.0)) == []


def test_a_new_pause_takes_the_place_of_the_last() -> None:
    first, second = session("s"), session("s", begin=5.0)
    on_hold = remembered(first, second)
    on_hold.discard(first)
    assert at_home(on_hold, 8.0) == [second]
    on_hold.discard(second)
    assert len(on_hold) == 0


def test_what_is_remembered_and_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paused, "MOST_SESSIONS", 40)
    on_hold = remembered(*(session(f"s{number}", begin=float(number) / 10) for number in range(50)))
    assert len(on_hold) == 40
    expected = at_home(on_hold, 10.0)
    assert (len(expected), expected[0].session_id) == (MOST_READ, "s10")


def test_the_first_that_lacks_something_is_rebuilt() -> None:
    cached = {
        "whole": Residency("home", 1000),
        "warm": Residency("home", 500, 500),
        "nearly": Residency("home", 1000 - LEAST_TOKENS + 1),
        "part": Residency("home", 1000 - LEAST_TOKENS),
    }
    expected = [session(name) for name in cached]
    assert first_to_rebuild(expected, cached) == expected[-1]
    assert first_to_rebuild(expected[:-1], cached) is None
    assert first_to_rebuild([session("gone")], {}) == session("gone")
    assert first_to_rebuild([session("large", tokens=10_001)], {}) is None


def first_to_rebuild(sessions: list[PausedSession], cached: dict[str, Residency]) -> PausedSession | None:
    return remembered(*sessions).first_to_rebuild(sessions, cached, HOME, 30.0)


def test_what_has_lost_nothing_or_finds_no_room_lets_others_go_first_for_a_while() -> None:
    pauses = [session("whole"), session("large", begin=1.0, tokens=10_001), session("part", begin=2.0)]
    on_hold, cached = remembered(*pauses), {"whole": Residency("home", 1000)}
    assert on_hold.first_to_rebuild(at_home(on_hold, 30.0), cached, HOME, 30.0) == pauses[2]
    assert at_home(on_hold, 30.1) == [pauses[2]]
    on_hold.pass_over(pauses[2], 30.1)
    assert at_home(on_hold, 30.1) == []
    assert names(at_home(on_hold, 30.1 + PASSED_OVER_SECONDS)) == ["whole", "large", "part"]


def test_a_new_pause_is_not_passed_over_for_the_last_one() -> None:
    first, second = session("s"), session("s", begin=5.0)
    on_hold = remembered(first, second)
    on_hold.pass_over(first, 8.0)
    assert at_home(on_hold, 8.0) == [second]


def test_each_home_gets_its_own_sessions() -> None:
    away = replace(session("away"), home="another")
    on_hold = remembered(session("s"), away)
    another = worker_of("another", prefill_rate=100.0, idle=True)
    assert on_hold.expected([HOME, another], 8.0) == {"home": [session("s")], "another": [away]}


@pytest.mark.parametrize(
    ("home", "expected"),
    [
        (HOME, True),
        (worker_of("older"), False),
        (replace(HOME, reserved_attempts=1), False),
        (worker_of("leaves", idle=True, leaving=True), False),
        (replace(HOME, live_tokens=900, live_limit=900), True),
        (replace(HOME, live_tokens=901, live_limit=900), False),
    ],
    ids=["idle", "does not say", "a step is on its way", "leaves", "working set full", "working set over its target"],
)
def test_only_a_worker_that_has_time_and_room_is_asked(home: WorkerState, expected: bool) -> None:
    assert has_time(home) is expected
