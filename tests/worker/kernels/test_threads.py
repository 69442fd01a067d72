"""The kernels' threads, seen through a small product, and when they ask for help."""

import pytest
import torch

from compiled_kernels import kernels, library, needs_compiler
from roost_worker.kernels.library import helper_limits

pytestmark = needs_compiler


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_piece_is_done_once_whatever_helpers_do(threads: int) -> None:
    """Many short jobs, so that helpers wake late, on time and not at all."""
    product = kernels(threads).pack(torch.ones(160, 16), norm=torch.ones(16), eps=0.0)
    for rows in torch.randint(1, 9, (300,)).tolist():
        assert product(torch.ones(rows, 16)).eq(16).all()


def test_more_pieces_than_a_job_counts() -> None:
    """As a prompt of a million tokens has: each row is a piece of the norm."""
    rows = (1 << 20) + 3
    assert kernels(2).pack(torch.ones(1, 1), norm=torch.ones(1), eps=0.0)(torch.full((rows, 1), 3.0)).eq(1).all()


def stalls(*events: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Jobs at times, and how long they wait for helpers that save them nothing."""
    return [(time, 0, waited) for time, waited in events]


def test_each_stall_takes_a_helper_away_until_a_pause_is_over() -> None:
    events = stalls((0, 0), (1, 1000), (2, 1000), (3, 0), (20_001, 0), (20_002, 0), (40_001, 0), (40_002, 0))
    assert helper_limits(library(), 3, events) == [3, 3, 2, 1, 1, 2, 2, 3]


def test_without_helpers_left_the_caller_works_alone() -> None:
    assert helper_limits(library(), 1, stalls((0, 500), (1, 500), (2, 0))) == [1, 0, 0]


def test_a_neighbour_who_stays_costs_a_twentieth_of_the_time() -> None:
    """Jobs of a millisecond; each one that is helped waits as long as four."""
    times = range(0, 4_000_000, 1000)
    limits = helper_limits(library(), 1, stalls(*((time, 4000) for time in times)))
    assert sum(limits) * 4 <= len(times) / 20


def test_a_neighbour_who_costs_less_than_helpers_save_takes_none_away() -> None:
    """Every tenth job waits for twice what a helper saves in each of them."""
    jobs = [(1000 * job, 500, 1000 if job % 10 == 9 else 0) for job in range(100)]
    assert helper_limits(library(), 1, jobs) == [1] * 100


def test_what_was_saved_long_ago_does_not_count_for_ever() -> None:
    jobs = [(1000 * job, 500, 0) for job in range(1000)]
    after = [(1_000_000 + job, 0, 4000) for job in range(7)]
    assert helper_limits(library(), 1, jobs + after)[-7:] == [1, 1, 1, 1, 1, 1, 0]


def test_a_pause_ends_also_for_a_process_that_was_stopped() -> None:
    assert helper_limits(library(), 1, stalls((0, 3_600_000_000), (4_999_999, 0), (5_000_000, 0))) == [1, 0, 1]
