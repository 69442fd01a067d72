"""Generated sessions have the statistics that they are drawn from, and fitting finds these again."""

import math
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_gateway.simulator.fit import fit, halves
from roost_gateway.simulator.generator import RANKS, Parameters, fitted_parameters, generate, quantile
from roost_gateway.simulator.workload import Session, Turn, longest_context

MIDDLE = [RANKS.index(rank) for rank in (0.2, 0.5, 0.8)]
SESSIONS = 400


@pytest.fixture(scope="module")
def sessions() -> list[Session]:
    return list(islice(generate(fitted_parameters(), 7), SESSIONS))


@pytest.fixture(scope="module")
def fitted_again(sessions: list[Session]) -> Parameters:
    return fit(sessions)


@pytest.mark.parametrize("name", ["turns", "tool_call_tokens", "answer_tokens"])
def test_sizes_follow_the_parameters(fitted_again: Parameters, name: str) -> None:
    expected, actual = getattr(fitted_parameters(), name), getattr(fitted_again, name)
    for rank in MIDDLE:
        assert actual[rank] == pytest.approx(expected[rank], rel=0.25), f"{name} at {RANKS[rank]}"


@pytest.mark.parametrize("kind", ["after_tool", "after_answer"])
def test_turns_follow_the_kind_of_the_turn_before(fitted_again: Parameters, kind: str) -> None:
    expected, actual = getattr(fitted_parameters(), kind), getattr(fitted_again, kind)
    assert actual.calls_tool == pytest.approx(expected.calls_tool, abs=0.03)
    for rank in MIDDLE:
        assert actual.gap_seconds[rank] == pytest.approx(expected.gap_seconds[rank], rel=0.15)
        assert actual.new_tokens[rank] == pytest.approx(expected.new_tokens[rank], rel=0.25)


def test_contexts_shrink_as_often_and_stay_within_the_bound(sessions: list[Session], fitted_again: Parameters) -> None:
    parameters = fitted_parameters()
    assert fitted_again.compaction == pytest.approx(parameters.compaction, rel=0.3)
    assert max(map(longest_context, sessions)) <= parameters.longest_context
    assert {session.prefix_tokens for session in sessions} == set(parameters.prefix_tokens)


def test_a_session_is_the_same_whenever_it_is_drawn(sessions: list[Session]) -> None:
    first = [list(session.turns) for session in sessions[:5]]
    assert first == [list(session.turns) for session in islice(generate(fitted_parameters(), 7), 5)]
    assert first != [list(session.turns) for session in islice(generate(fitted_parameters(), 8), 5)]
    assert len({len(turns) for turns in first}) > 1


@given(st.lists(st.floats(0, 1e6), min_size=len(RANKS), max_size=len(RANKS)), st.floats(0, 1))
def test_a_quantile_is_between_its_neighbours(values: list[float], rank: float) -> None:
    values = sorted(values)
    upper = next(number for number, other in enumerate(RANKS) if rank <= other)
    lower = max(0, upper - 1)
    value = quantile(values, rank)
    assert values[lower] * (1 - 1e-9) - 1e-9 <= value <= values[upper] * (1 + 1e-9) + 1e-9
    assert math.isclose(quantile(values, RANKS[upper]), values[upper], rel_tol=1e-9, abs_tol=1e-9)


def test_halves_keep_subagents_with_their_parents() -> None:
    turns = (Turn(0, 1, 1),)
    roots = [f"s{number}" for number in range(40)]
    tuning, held_out = halves(Session(name, turns) for root in roots for name in (root, f"{root}/agent-0"))
    assert not {session.name.partition("/")[0] for session in tuning} & {session.name for session in held_out}
    assert len(tuning) + len(held_out) == 80
    assert min(len(tuning), len(held_out)) > 20


def test_the_half_of_a_session_does_not_depend_on_the_others() -> None:
    sessions = [Session(f"s{number}", (Turn(0, 1, 1),)) for number in range(40)]
    halved = halves(sessions)
    assert halves(reversed(sessions)) == tuple(half[::-1] for half in halved)
    assert halves(sessions[::3]) == tuple([s for s in half if s in sessions[::3]] for half in halved)
