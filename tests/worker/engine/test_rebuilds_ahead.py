"""Background requests ahead of a session's return: they displace nothing that is worth more, and the pause goes on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_driver import Answer, EngineDriver
from roost_worker.engine.learned_returns import LearnedReturns
from roost_worker.engine.messages import BACKGROUND, Cancel, Evict, Hold, Pause, StopReason
from roost_worker.engine.retention import Lru, LruSparingHeld, RetentionPolicy

LOG = list(range(1, 33))
"""Eight blocks of the driver's."""


def rebuild(driver: EngineDriver, *, seconds_ago: float = 10.0, expect_seconds: float = 30.0) -> Answer:
    """Asks for the KV of session "s" ahead of its return."""
    pause = Pause(seconds_ago, expect_seconds, "pytest")
    return driver.submit("rebuild", LOG, session="s", priority=BACKGROUND, role="coder", pause=pause, max_tokens=1)


def crowded(session: str | None, *, held: float = 0.0, policy: RetentionPolicy | None = None) -> EngineDriver:
    """An engine of ten blocks, of which another session, or none, has eight."""
    driver = EngineDriver(blocks=10, policy=policy)
    driver.now = 100.0
    driver.submit("other", [40] * 31, session=session, max_tokens=1)
    driver.run()
    if held and session:
        driver.send(Hold(session, held))
    return driver


def test_a_session_is_held_on_as_if_it_had_never_been_evicted() -> None:
    driver = EngineDriver()
    driver.now = 100.0
    answer = rebuild(driver)
    driver.run()
    assert answer.stop is StopReason.LENGTH
    parked = driver.engine._cache.parked.get("s")
    assert parked is not None
    assert (parked.last_used, parked.held_until) == (90.0, 120.0)
    assert (parked.tool, parked.expect_seconds, parked.role) == ("pytest", 30.0, "coder")
    assert driver.engine.stats.held == 1


@pytest.mark.parametrize("policy", [LruSparingHeld(), LearnedReturns(0.0)], ids=["LRUSparingHeld", "LearnedReturns"])
def test_what_nobody_waits_for_makes_room(policy: RetentionPolicy) -> None:
    driver = crowded(None, policy=policy)
    driver.now = 4000.0
    answer = rebuild(driver)
    driver.run()
    assert answer.stop is StopReason.LENGTH
    assert driver.resident == {"s": len(LOG)}


def test_a_session_that_is_not_on_hold_makes_room_for_one_that_is() -> None:
    driver = crowded("idle")
    rebuild(driver)
    driver.run()
    assert driver.resident["s"] == len(LOG)
    assert driver.resident.get("idle", 0) < 31


def test_a_session_that_was_used_since_is_worth_more_to_lru() -> None:
    driver = crowded("idle", policy=Lru())
    answer = rebuild(driver)
    driver.run()
    assert answer.stop is StopReason.CANCELLED
    assert driver.resident == {"idle": 31}


@pytest.mark.parametrize(("held", "stop"), [(10.0, StopReason.CANCELLED), (90.0, StopReason.LENGTH)])
def test_a_session_that_is_expected_sooner_stays(held: float, stop: StopReason) -> None:
    """Both were used before the pause of the session that is to be rebuilt, which ends in 20 s."""
    driver = crowded("other", held=held)
    driver.now += 2.0
    answer = rebuild(driver, seconds_ago=1.0, expect_seconds=21.0)
    driver.run()
    assert answer.stop is stop
    assert driver.resident.get("other", 0) == (31 if stop is StopReason.CANCELLED else 8)


def test_nothing_is_evicted_when_not_all_of_it_finds_room() -> None:
    driver = crowded("soon", held=10.0)
    driver.submit("loose", [41] * 7, max_tokens=1)
    driver.run()
    cached = driver.engine.stats.blocks_cached
    answer = rebuild(driver)
    driver.run()
    assert (answer.stop, driver.engine.stats.blocks_cached) == (StopReason.CANCELLED, cached)


@pytest.mark.parametrize("session", ["s", None], ids=["parked", "loose"])
def test_the_sessions_own_blocks_are_not_room_for_it(session: str | None) -> None:
    """Six of nine blocks have its log's beginning, and two belong to a session that is expected sooner: one is
    missing."""
    driver = EngineDriver(blocks=9)
    driver.submit("first", LOG[:24], session=session, max_tokens=1)
    driver.submit("soon", [40] * 8, session="soon", max_tokens=1)
    driver.run()
    driver.send(Hold("soon", 5.0))
    answer = rebuild(driver)
    driver.run()
    assert answer.stop is StopReason.CANCELLED
    driver.send(Evict("soon"))
    answer = rebuild(driver)
    driver.run()
    assert (answer.stop, answer.cached_tokens) == (StopReason.LENGTH, 24)


def test_a_rebuild_that_is_cancelled_leaves_its_part_on_hold() -> None:
    driver = EngineDriver(batch=8)
    rebuild(driver)
    driver.iterate()
    driver.send(Cancel("rebuild"))
    driver.run()
    assert driver.resident == {"s": 8}
    assert driver.engine.stats.held == 1


OTHERS = st.lists(st.tuples(st.integers(4, 24), st.sampled_from([0.0, 5.0, 15.0, 60.0])), max_size=4)


@given(OTHERS, st.sampled_from([0.0, 3.0, 30.0]), st.sampled_from([1.0, 10.0, 40.0]), st.booleans())
def test_nothing_that_is_expected_sooner_gives_way(
    others: list[tuple[int, float]], seconds_ago: float, expect_seconds: float, learns: bool
) -> None:
    """Others have so many tokens and a hold of so many seconds each, and pause one after the other."""
    driver = EngineDriver(blocks=12, policy=LearnedReturns(0.0) if learns else LruSparingHeld())
    driver.now = 100.0
    for number, (tokens, held) in enumerate(others):
        name = f"other-{number}"
        driver.submit(name, [40 + number] * tokens, session=name, max_tokens=1)
        driver.run()
        if held:
            driver.send(Hold(name, held))
        driver.now += 1.0
    before, due = dict(driver.resident), driver.now - seconds_ago + expect_seconds
    sooner = {each.session for each in driver.engine._cache.parked if driver.now < each.held_until < due}
    answer = rebuild(driver, seconds_ago=seconds_ago, expect_seconds=expect_seconds)
    driver.run()
    assert {name: driver.resident.get(name) for name in sooner} == {name: before[name] for name in sooner}
    if answer.stop is StopReason.CANCELLED:
        assert driver.resident == before, "nothing is evicted for less than all of it"
    else:
        assert driver.resident["s"] == len(LOG)
