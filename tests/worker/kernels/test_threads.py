"""The kernels' threads, seen through a small product, and when they ask for help."""

import pytest
import torch

from compiled_kernels import kernels, library, needs_compiler
from roost_worker.kernels.library import helper_limits

pytestmark = needs_compiler

MILLISECOND = 1000


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_piece_is_done_once_whatever_helpers_do(threads: int) -> None:
    """Many short jobs, so that helpers wake late, on time and not at all."""
    product = kernels(threads).pack(torch.ones(160, 16), norm=torch.ones(16), eps=0.0)
    for rows in torch.randint(1, 9, (1000,)).tolist():
        assert product(torch.ones(rows, 16)).eq(16).all()


def test_each_stall_takes_a_helper_away_until_a_pause_is_over() -> None:
    events = [(0, False), (1, True), (2, True), (3, False), (10 * MILLISECOND + 2, False), (30 * MILLISECOND, False)]
    assert helper_limits(library(), 3, events) == [3, 3, 2, 1, 2, 3]


def test_without_helpers_left_the_caller_works_alone() -> None:
    assert helper_limits(library(), 1, [(0, True), (1, True), (2, False)]) == [1, 0, 0]


def test_pauses_grow_while_a_neighbour_stays_and_are_short_again_when_it_has_gone() -> None:
    def pauses(stalls_until: int) -> list[int]:
        """How long a helper was left out each time, in milliseconds, when every job with it stalls until then."""
        times = range(0, 3000 * MILLISECOND, MILLISECOND)
        limits = helper_limits(library(), 1, [(time, time < stalls_until) for time in times])
        return [len(pause) for pause in "".join(map(str, limits)).split("1") if pause]

    growing = pauses(stalls_until=1000 * MILLISECOND)
    assert growing[:5] == [9, 19, 39, 79, 159]
    assert set(growing[5:]) == {159}

    stay, calm = [(0, True), (10_000, True)], [(time, False) for time in range(40_000, 400_000, 10_000)]
    later = [(500_000, True), (509_999, False), (510_000, False)]
    assert helper_limits(library(), 1, [*stay, *calm, *later])[-3:] == [1, 0, 1]
