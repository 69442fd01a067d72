"""What becomes of tokens that were rebuilt ahead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_worker.server.rebuilt_ahead import RebuiltAhead

PLACES = st.integers(0, 40)
EVENTS = st.one_of(
    st.tuples(st.just("add"), PLACES, PLACES), st.tuples(st.just("keep"), PLACES), st.tuples(st.just("use"), PLACES)
)


@given(st.lists(st.tuples(st.sampled_from("ab"), EVENTS)))
def test_each_token_is_pending_used_or_wasted(events: list[tuple[str, tuple[str, int]]]) -> None:
    ahead = RebuiltAhead()
    for session, (name, *places) in events:
        getattr(ahead, name)(session, *places)
        assert ahead.rebuilt == ahead.pending + ahead.used + ahead.wasted
        assert min(ahead.rebuilt, ahead.pending, ahead.used, ahead.wasted) >= 0


@pytest.mark.parametrize(
    ("cached", "used", "wasted"),
    [(100, 60, 0), (140, 60, 0), (70, 30, 30), (40, 0, 60), (0, 0, 60)],
    ids=["all of it", "and more", "half of it", "only what was there before", "nothing"],
)
def test_a_step_uses_what_is_still_cached(cached: int, used: int, wasted: int) -> None:
    ahead = RebuiltAhead()
    ahead.add("s", 40, 100)
    assert ahead.use("s", cached) == used
    assert (ahead.rebuilt, ahead.used, ahead.wasted) == (60, used, wasted)
    assert ahead.use("s", cached) == 0


def test_a_rebuild_that_goes_on_adds_to_what_is_there() -> None:
    ahead = RebuiltAhead()
    ahead.add("s", 0, 30)
    ahead.add("s", 30, 100)
    assert ahead.of("s") == 100
    ahead.keep("s", 80)
    assert (ahead.of("s"), ahead.wasted) == (80, 20)
