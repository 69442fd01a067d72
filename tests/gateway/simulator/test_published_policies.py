"""The policies that others have published evict in the order that their sources describe."""

import pytest

from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.published import (
    IdlestFirst,
    PauseByDemand,
    ShortestFirst,
    StaticTtl,
    TailOptimizedLru,
    ToolTtl,
)
from roost_worker.engine.retention import Candidate, Eviction, RetentionPolicy, Return


def calling(session: str, last_used: float, tokens: int = 1000) -> Candidate:
    """A session that waits for a tool."""
    return Candidate(session, last_used, last_used + 60.0, tokens=tokens)


def order(policy: RetentionPolicy, *candidates: Candidate, now: float) -> str:
    ranked = sorted(candidates, key=lambda candidate: policy.rank(candidate, now).order)
    return "".join(candidate.session or "-" for candidate in ranked)


def back(policy: RetentionPolicy, session: str, now: float, tokens: int = 1000) -> None:
    policy.came_back(Return(session, now, tokens, 0, ()), now)


def test_a_static_time_pins_after_tool_calls_only() -> None:
    policy = StaticTtl(100.0)
    candidates = (calling("a", 0.0), Candidate("b", 50.0, tokens=1000))
    assert order(policy, *candidates, now=99.0) == "ba"
    assert policy.rank(candidates[0], 99.0).until == 100.0
    assert order(policy, *candidates, now=100.0) == "ab"


def test_the_shortest_goes_first() -> None:
    assert order(ShortestFirst(), calling("a", 0.0, 900), calling("b", 1.0, 300), now=2.0) == "ba"


def test_tlru_takes_the_tail_that_can_be_computed_in_time_before_the_oldest() -> None:
    policy = TailOptimizedLru(300)
    old, new = calling("a", 0.0), calling("b", 9.0)
    policy.rank(old, 0.0)
    trimmed = Candidate("a", 0.0, tokens=700)
    assert order(policy, trimmed, new, now=9.0) == "ba"
    assert order(policy, trimmed, Candidate("b", 9.0, tokens=700), now=9.0) == "ab"


def test_tlru_keeps_more_where_prompts_are_longer() -> None:
    policy = TailOptimizedLru(300)
    for number in range(100):
        policy.rank(calling("c", float(number)), float(number))
        back(policy, "c", number + 0.5, tokens=1400)
    assert order(policy, calling("a", 200.0), calling("b", 100.0), now=200.0) == "ba", "400 new tokens: none to spare"


def test_continuum_pins_for_as_long_as_tools_took_if_reloading_costs_more() -> None:
    policy = ToolTtl(WorkerCosts(prompt_seconds=0.0, prefill_token_seconds=0.01, prefill_pair_seconds=0.0))
    assert policy.rank(calling("a", 0.0), 0.0).until > 1e9, "nothing is known, nothing is pinned"
    back(policy, "a", 4.0)
    assert policy.rank(calling("a", 10.0), 10.0).until == 14.0
    assert policy.rank(calling("b", 10.0, tokens=300), 10.0).until > 1e9, "3 s of reloading are no 4 s of waiting"
    assert policy.rank(Candidate("c", 10.0, tokens=1000), 10.0).until > 1e9, "it calls no tool"


def test_continuum_gives_up_the_latest_session_of_those_that_are_pinned() -> None:
    policy = ToolTtl(WorkerCosts(prompt_seconds=0.0, prefill_token_seconds=1.0, prefill_pair_seconds=0.0))
    for session in "ab":
        back(policy, session, 0.0)
        policy.rank(calling(session, 1.0), 1.0)
        back(policy, session, 5.0)
    assert order(policy, calling("a", 6.0), calling("b", 7.0), Candidate("c", 8.0, tokens=9), now=8.0) == "cba"


def waiting(policy: PauseByDemand, *, computing: int) -> list[float]:
    """Return whether each of three sessions, which have waited for 1 s at a tick, is spared (1) or paused (0)."""
    policy.rank(Candidate(None, 0.0), 0.0)
    back(policy, "other", 0.0, tokens=computing)
    candidates = [calling(name, 4.0, tokens) for name, tokens in (("a", 900), ("b", 1000), ("c", 1100))]
    for candidate in candidates:
        policy.rank(candidate, 4.0)
    return [policy.rank(candidate, 5.0).order[1] for candidate in candidates]


def test_thunder_agent_pauses_the_shortest_until_the_demand_fits() -> None:
    assert waiting(PauseByDemand(2500), computing=1000) == [1.0, 1.0, 1.0], "1,000 and half of 3,000"
    assert waiting(PauseByDemand(2499), computing=1000) == [0.0, 1.0, 1.0]
    assert waiting(PauseByDemand(2500), computing=1451) == [0.0, 0.0, 1.0]


def test_a_return_ends_a_pause_of_thunder_agent() -> None:
    policy = PauseByDemand(1)
    assert waiting(policy, computing=10) == [0.0, 0.0, 0.0]
    back(policy, "b", 6.0)
    assert policy.rank(calling("b", 7.0), 7.0).order[1] == 1.0


def test_mori_gives_up_the_session_that_waits_for_the_greatest_share() -> None:
    policy = IdlestFirst()
    for session, computes in (("a", 9.0), ("b", 1.0)):
        for cycle in range(3):
            back(policy, session, 20.0 * cycle)
            policy.rank(calling(session, 20.0 * cycle + computes), 20.0 * cycle + computes)
        back(policy, session, 60.0)
    busy, idle = calling("a", 69.0), calling("b", 61.0)
    assert order(policy, busy, idle, now=70.0) == "ba"
    assert order(policy, busy, calling("b", 69.9), now=500.0) == "ba", "the share counts, not the last use"


@pytest.mark.parametrize(
    "policy",
    [TailOptimizedLru(300), ToolTtl(WorkerCosts()), PauseByDemand(10), IdlestFirst()],
    ids=lambda p: type(p).__name__,
)
def test_they_forget_sessions_that_have_ended(policy: RetentionPolicy) -> None:
    for number in range(3):
        candidate, now = calling(f"s{number}", 6.0 * number), 6.0 * number
        back(policy, f"s{number}", now)
        policy.rank(candidate, now + 5)
        policy.evicted(Eviction(candidate, 1000, requested=True), now + 5)
    assert not any(value for value in vars(policy).values() if isinstance(value, dict | set))
