"""Waits between tries grow, differ from client to client, and end."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost import RetryConfig
from roost._retry import Patience
from roost.errors import AnotherStepRunningError, InternalError, OverloadedError, UnavailableError

CONFIG = RetryConfig(initial_backoff=1.0, max_backoff=8.0, multiplier=2.0, give_up_after=100.0)


def patience(gateways: int = 1, deadline: float | None = None, draw: float = 1.0) -> Patience:
    return Patience(CONFIG, gateways, deadline, draw=lambda: draw)


def test_each_gateway_is_tried_before_any_wait() -> None:
    waits = patience(gateways=3)
    assert [waits.wait_after(UnavailableError("x"), 0.0) for _ in range(3)] == [0.0, 0.0, 4.0]


def test_waits_double_up_to_their_bound() -> None:
    waits = patience()
    assert [waits.wait_after(UnavailableError("x"), 0.0) for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_half_of_a_wait_is_random() -> None:
    assert patience(draw=0.0).wait_after(UnavailableError("x"), 0.0) == 0.5


def test_a_gateway_that_says_when_to_return_is_heard_even_when_another_is_left() -> None:
    assert patience(gateways=2).wait_after(UnavailableError("x", retry_after=5.0), 0.0) == 6.0


def test_progress_makes_waits_small_again() -> None:
    waits = patience()
    waits.wait_after(UnavailableError("x"), 0.0)
    waits.wait_after(UnavailableError("x"), 90.0)
    waits.progress()
    assert waits.wait_after(UnavailableError("x"), 500.0) == 1.0


def test_without_progress_it_gives_up_some_time_after_the_first_failure() -> None:
    waits = patience()
    assert waits.wait_after(UnavailableError("x"), 1000.0) == 1.0
    assert waits.wait_after(UnavailableError("x"), 1097.5) == 2.0
    assert waits.wait_after(UnavailableError("x"), 1097.5) is None


def test_the_time_for_which_a_worker_had_a_step_in_silence_is_no_failure() -> None:
    waits = patience()
    waits.worked(1000.0)
    assert waits.wait_after(UnavailableError("x"), 1000.0) == 1.0
    waits.worked(300.0)
    assert waits.wait_after(UnavailableError("x"), 1397.5) == 2.0
    assert waits.wait_after(UnavailableError("x"), 1397.5) is None


def test_a_straggler_is_waited_for_as_long_as_its_lease_and_asked_for_more_often() -> None:
    busy = AnotherStepRunningError("x", reason="ANOTHER_STEP_RUNNING", retry_after=5.0)
    assert patience(gateways=2).wait_after(busy, 0.0) is None
    waits = Patience(CONFIG, 2, None, straggler_seconds=6.0, draw=lambda: 1.0)
    assert [waits.wait_after(busy, now) for now in (0.0, 1.0, 3.0)] == [1.0, 2.0, None]
    assert Patience(RetryConfig(give_up_after=0.0), 1, None, straggler_seconds=6.0).wait_after(busy, 0.0) is None


def test_no_wait_reaches_past_the_deadline() -> None:
    assert patience(deadline=10.0).wait_after(UnavailableError("x"), 9.5) is None
    assert patience(deadline=10.0).remaining(4.0) == 6.0
    assert patience(deadline=10.0).remaining(11.0) == 0.0


@pytest.mark.parametrize(
    "error",
    [
        InternalError("x", retry_after=1.0),
        OverloadedError("x", status=grpc.StatusCode.RESOURCE_EXHAUSTED),
        OverloadedError("x", reason="QUEUE_FULL"),
        OverloadedError("x", retry_after=1.0),
    ],
)
def test_what_no_wait_can_help_is_not_tried_again(error: Exception) -> None:
    assert patience(gateways=2).wait_after(error, 0.0) is None  # type: ignore[arg-type]


@given(st.integers(1, 4), st.floats(0, 1), st.lists(st.floats(0, 5), max_size=200))
def test_every_wait_ends(gateways: int, draw: float, times: list[float]) -> None:
    waits, now = patience(gateways, draw=draw), 0.0
    for lost in times:
        wait = waits.wait_after(UnavailableError("x"), now)
        if wait is None:
            break
        assert 0.0 <= wait <= 8.0
        now += wait + lost
    assert now <= 100.0 + 5.0 + 5.0


@pytest.mark.parametrize(
    "bad",
    [
        {"initial_backoff": 0.0},
        {"initial_backoff": 2.0, "max_backoff": 1.0},
        {"multiplier": 0.5},
        {"give_up_after": -1.0},
    ],
)
def test_a_config_that_makes_no_sense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="RetryConfig needs"):
        RetryConfig(**bad)
