"""What the learned policy keeps, what it learns from, and how much it remembers."""

from dataclasses import replace
from math import inf, isnan, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_worker.engine.learned_returns import MOST_COUNTS, MOST_SESSIONS, LearnedReturns
from roost_worker.engine.retention import Candidate, Eviction, Rank, Return

PAIR_COST = 3e-5


def pause(
    policy: LearnedReturns, candidate: Candidate, seconds: float, *, evicted: bool = False, ended: bool = True
) -> None:
    """Play a session's pause: it is parked, is evicted or not, and comes back, or is evicted at the gateway's wish."""
    policy.rank(candidate, candidate.last_used)
    now = candidate.last_used + seconds
    if not ended:
        policy.evicted(Eviction(candidate, candidate.tokens, requested=True), now)
        return
    if evicted:
        policy.evicted(Eviction(candidate, candidate.tokens, requested=False), now - seconds / 2)
    policy.came_back(Return(candidate.session, now, candidate.tokens + 10, 0, ()), now)


def learned(**seconds_by_tool: float) -> LearnedReturns:
    """Return a policy that has seen many sessions use each tool for about so many seconds."""
    policy = LearnedReturns(PAIR_COST)
    for number in range(60):
        for tool, seconds in seconds_by_tool.items():
            pause(policy, held(f"{tool}-{number}", 1000.0 * number, tool), seconds * (1 + number % 3 / 10))
    return policy


def held(session: str, last_used: float, tool: str = "", expect_seconds: float = 0.0, tokens: int = 100) -> Candidate:
    until = last_used + (expect_seconds or 60.0)
    return Candidate(session, last_used, until, tokens=tokens, tool=tool, expect_seconds=expect_seconds)


def first_to_go(policy: LearnedReturns, *candidates: Candidate, now: float) -> str | None:
    return min(candidates, key=lambda candidate: policy.rank(candidate, now).order).session


def test_a_session_whose_tool_is_quick_is_kept_before_one_whose_tool_is_slow() -> None:
    policy = learned(grep=3.0, build=200.0)
    assert first_to_go(policy, held("a", 1e6, "grep"), held("b", 1e6, "build"), now=1e6 + 1) == "b"


def test_a_pause_that_has_lasted_longer_than_its_like_is_given_up() -> None:
    policy = learned(grep=3.0, build=200.0)
    grep, build = held("a", 1e6, "grep"), held("b", 1e6, "build")
    assert first_to_go(policy, grep, build, now=1e6 + 150) == "a"


def test_sessions_that_were_away_for_long_are_taken_to_be_away_for_long_again() -> None:
    policy = LearnedReturns(PAIR_COST)
    for number in range(30):
        pause(policy, held("quick", 1000.0 * number), 3.0)
        pause(policy, held("slow", 1000.0 * number), 300.0)
    assert first_to_go(policy, held("quick", 1e6), held("slow", 1e6), now=1e6 + 1) == "slow"


def test_roles_and_holds_are_told_apart() -> None:
    policy = LearnedReturns(PAIR_COST)
    for number in range(60):
        for role, seconds in (("coder", 4.0), ("reviewer", 300.0)):
            pause(policy, replace(held(f"{role}-{number}", 1000.0 * number), role=role), seconds)
        pause(policy, Candidate(f"done-{number}", 1000.0 * number), 500.0)
    coder, reviewer = (replace(held(role, 1e6), role=role) for role in ("coder", "reviewer"))
    assert first_to_go(policy, coder, reviewer, now=1e6) == "reviewer"
    rates = [policy.rank(candidate, 1e6).order[1] for candidate in (Candidate("done", 1e6, role="coder"), coder)]
    assert rates[0] < rates[1] / 5


def test_a_pause_is_learned_from_even_if_the_kv_went_before_it_ended() -> None:
    policy = LearnedReturns(PAIR_COST)
    for number in range(60):
        pause(policy, held(f"a{number}", 1000.0 * number, "grep"), 3.0, evicted=True)
        pause(policy, held(f"b{number}", 1000.0 * number, "build"), 300.0, evicted=True)
    assert first_to_go(policy, held("a", 1e6, "grep"), held("b", 1e6, "build"), now=1e6) == "b"


def test_a_tool_whose_sessions_never_return_is_given_up_before_others() -> None:
    policy = LearnedReturns(PAIR_COST)
    for number in range(60):
        pause(policy, held(f"a{number}", 1000.0 * number, "ask"), 100.0)
        pause(policy, held(f"b{number}", 1000.0 * number, "end"), 3000.0, ended=False)
    assert first_to_go(policy, held("a", 1e6, "ask"), held("b", 1e6, "end"), now=1e6) == "b"


def test_what_the_client_expects_counts_and_a_newer_hold_takes_its_place() -> None:
    policy = LearnedReturns(PAIR_COST)
    soon, late = held("soon", 0.0, expect_seconds=5.0), held("late", 0.0, expect_seconds=600.0)
    assert first_to_go(policy, soon, late, now=1.0) == "late"
    policy.rank(replace(soon, expect_seconds=3600.0, held_until=3600.0), 1.0)
    assert first_to_go(policy, replace(soon, expect_seconds=3600.0, held_until=3600.0), late, now=1.0) == "soon"


def test_a_hold_that_a_request_ends_is_still_the_kind_of_pause_that_ended() -> None:
    """The engine ends the hold before the request runs, and with it before the pause is counted."""
    ended, lasting = LearnedReturns(PAIR_COST), LearnedReturns(PAIR_COST)
    for number in range(60):
        candidate = held(f"s{number}", 1000.0 * number, "grep")
        pause(lasting, candidate, 3.0)
        ended.rank(candidate, candidate.last_used)
        pause(ended, replace(candidate, held_until=0.0), 3.0)
    assert ended.rank(held("a", 1e6, "grep"), 1e6) == lasting.rank(held("a", 1e6, "grep"), 1e6)


def test_a_rank_lasts_however_short_a_pause_is_promised() -> None:
    assert LearnedReturns(PAIR_COST).rank(held("a", 1e6, expect_seconds=1e-9), 1e6).until > 1e6


def test_the_end_of_a_long_context_is_dearer_than_that_of_a_short_one() -> None:
    long, short = held("long", 0.0, tokens=100_000), held("short", 0.0, tokens=1_000)
    assert first_to_go(LearnedReturns(PAIR_COST), long, short, now=1.0) == "short"
    rates = [LearnedReturns(0.0).rank(candidate, 1.0).order for candidate in (long, short)]
    assert rates[0] == rates[1]


def test_loose_blocks_that_are_used_again_are_kept_before_those_that_are_not() -> None:
    used, unused = LearnedReturns(PAIR_COST), LearnedReturns(PAIR_COST)
    loose = Candidate(None, 0.0, tokens=64)
    for _ in range(60):
        used.came_back(Return("s", 2.0, 100, 64, (loose,)), 2.0)
        unused.evicted(Eviction(loose, 64, requested=False), 2.0)
    assert unused.rank(loose, 0.0).order < used.rank(loose, 0.0).order


CANDIDATES = st.builds(
    Candidate,
    session=st.sampled_from((None, "a", "b", "c")),
    last_used=st.floats(0.0, 1e4),
    held_until=st.sampled_from((0.0, 5.0, 1e5)),
    wanted=st.booleans(),
    tokens=st.integers(1, 1_000_000),
    tool=st.sampled_from(("", "grep", "build")),
    expect_seconds=st.sampled_from((0.0, 1e-9, 5.0, 1e7)),
    role=st.sampled_from(("", "coder")),
)
EVENTS = st.lists(st.tuples(st.sampled_from(("rank", "return", "evict", "trim")), CANDIDATES, st.floats(0.0, 1e4)))


def played(events: list[tuple[str, Candidate, float]]) -> tuple[LearnedReturns, list[Rank]]:
    """Return a policy after the events, and the ranks that it gave."""
    policy, ranks = LearnedReturns(PAIR_COST), []
    for what, candidate, delay in events:
        now = candidate.last_used + delay
        if what == "rank":
            ranks.append(policy.rank(candidate, now))
        elif what == "return":
            used = (candidate,) if candidate.session is None else ()
            policy.came_back(Return(candidate.session, now, candidate.tokens, 0, used), now)
        else:
            policy.evicted(Eviction(candidate, candidate.tokens, requested=what == "evict"), now)
    return policy, ranks


@given(EVENTS)
def test_the_same_events_give_the_same_ranks(events: list[tuple[str, Candidate, float]]) -> None:
    assert played(events)[1] == played(events)[1]


@given(EVENTS, st.lists(CANDIDATES, min_size=2, max_size=6), st.floats(0.0, 2e4))
def test_ranks_are_a_total_order_with_sessions_about_to_run_last(
    events: list[tuple[str, Candidate, float]], candidates: list[Candidate], now: float
) -> None:
    policy, _ = played(events)
    ranks = [policy.rank(candidate, now) for candidate in candidates]
    assert len({len(rank.order) for rank in ranks}) == 1
    assert not any(isnan(part) for rank in ranks for part in rank.order)
    assert all(rank.until > now for rank in ranks)
    ordered = sorted(zip(ranks, candidates, strict=True), key=lambda pair: pair[0].order)
    wanted = [candidate.wanted for _, candidate in ordered]
    assert wanted == sorted(wanted)


@given(EVENTS, CANDIDATES, st.floats(0.0, 1e4))
def test_a_rank_holds_until_it_says_if_nothing_is_learned(
    events: list[tuple[str, Candidate, float]], candidate: Candidate, delay: float
) -> None:
    policy, _ = played(events)
    now = candidate.last_used + delay
    rank = policy.rank(candidate, now)
    last = nextafter(rank.until, -inf) if rank.until < inf else now + 1e6
    assert policy.rank(candidate, max(now, min(last, rank.until - 1e-6))).order == pytest.approx(rank.order)


def test_names_of_tools_and_sessions_do_not_fill_the_memory() -> None:
    policy = LearnedReturns(PAIR_COST)
    for number in range(3 * MOST_COUNTS):
        pause(policy, held(f"s{number}", float(number), f"tool-{number}"), 3.0)
    assert len(policy._counts) == MOST_COUNTS
    for number in range(MOST_SESSIONS + 500):
        policy.rank(held(f"t{number}", float(number)), float(number))
    assert len(policy._sessions) == MOST_SESSIONS


def test_an_unknown_tool_is_judged_like_the_known_ones() -> None:
    """So that names that push others out cost no more than what was known of these."""
    quick = learned(grep=3.0)
    slow = learned(build=300.0)
    unknown = held("new", 1e6, "never-seen")
    assert slow.rank(unknown, 1e6).order < quick.rank(unknown, 1e6).order
