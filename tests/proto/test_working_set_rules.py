"""The working set's sums, its gate and its target, by themselves."""

from hypothesis import given
from hypothesis import strategies as st

from roost.store.working_set import (
    IDLE_MS,
    LEAST_TARGET,
    LONGEST_PAUSE_MS,
    MOST_TARGET,
    RAISED_BY,
    SHORTEST_PAUSE_MS,
    START_TARGET,
    Target,
    WorkingSet,
    footprint,
    is_evicted,
    pause_ms,
)

TOKENS = st.integers(0, 500)
FOOTPRINTS = st.builds(footprint, TOKENS, st.sampled_from(("", "aa", "bb")), TOKENS, st.sampled_from(("", "f")), TOKENS)
CAPACITY = 1000
CHANGES = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(("w1", "w2")), FOOTPRINTS, st.integers(1, 50)), max_size=40
)


@given(TOKENS, TOKENS, TOKENS)
def test_a_footprint_splits_all_tokens(tokens: int, prefix: int, family: int) -> None:
    needed = footprint(tokens, "aa", prefix, "f", family)
    assert needed.tokens == tokens
    assert min(needed.prefix_tokens, needed.family_tokens, needed.own_tokens) >= 0


@given(CHANGES)
def test_sessions_that_pass_the_gate_never_need_more_than_they_may(changes: list) -> None:
    live = WorkingSet()
    for now, (name, worker, needed, lasts) in enumerate(changes):
        live.expire(now)
        if name not in live.live and live.admits(worker, needed, CAPACITY):
            live.put(name, worker, needed, now + lasts)
        live.check_integrity()
        for each in ("w1", "w2"):
            assert live.sessions(each) <= 1 or live.tokens(each) <= live.target.limit(CAPACITY)
    live.expire(10**6)
    assert (live.live, live.tokens("w1"), live.tokens("w2"), live.earliest_end()) == ({}, 0, 0, None)


@given(CHANGES)
def test_sums_follow_sessions_that_move_grow_and_go(changes: list) -> None:
    live = WorkingSet()
    for now, (name, worker, needed, lasts) in enumerate(changes):
        if lasts % 5:
            live.put(name, worker, needed, now + lasts)
        else:
            live.remove(name)
        live.check_integrity()


def test_what_sessions_share_counts_once() -> None:
    live = WorkingSet()
    live.put("a", "w1", footprint(100, "aa", 40, "f", 70), 1)
    live.put("b", "w1", footprint(90, "aa", 40, "f", 60), 1)
    assert live.tokens("w1") == 40 + 30 + 30 + 30
    live.remove("a")
    assert live.tokens("w1") == 90


def test_the_target_falls_fast_and_rises_slowly_within_its_bounds() -> None:
    target = Target()
    target.observe(1000, 60, 10_000, held=True)
    assert target.value == START_TARGET * 9 // 10
    target.observe(1000, 900, 10_001, held=True)
    assert target.value == START_TARGET * 9 // 10, "not so soon again"
    for second in range(20, 60, 2):
        target.observe(1000, 900, second * 1000, held=True)
    assert target.value == LEAST_TARGET
    target.observe(1000, 10, 100_000, held=False)
    assert target.value == LEAST_TARGET, "nobody waits for it"
    target.observe(1000, 30, 102_000, held=True)
    assert target.value == LEAST_TARGET, "neither much nor little is lost"
    target.observe(1000, 10, 104_000, held=True)
    assert target.value == LEAST_TARGET + RAISED_BY
    for second in range(200, 1200, 2):
        target.observe(1000, 0, second * 1000, held=True)
    assert target.value == MOST_TARGET


def test_holds_are_bounded_and_say_nothing_without_a_time() -> None:
    assert [pause_ms(seconds) for seconds in (0.0, 1.0, 60.0, 1e9)] == [
        IDLE_MS,
        SHORTEST_PAUSE_MS,
        60_000,
        LONGEST_PAUSE_MS,
    ]


def test_less_may_be_lost_while_more_is_live_than_may_be() -> None:
    assert [is_evicted(100, cached, is_over=over) for cached in (100, 89, 49) for over in (False, True)] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]
