"""What is learned of pauses, and the rate of returns that follows from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_worker.engine.pauses import BINS, EDGES, PRIOR, PauseCounts, bin_of, return_rate

SHARES = st.lists(st.floats(0.0, 1.0), min_size=BINS, max_size=BINS)


def refined(counts: PauseCounts) -> list[float]:
    return [counts.refine(share, number) for number, share in enumerate(PRIOR)]


def test_bins_meet_and_have_no_end() -> None:
    assert [bin_of(edge) for edge in EDGES] == list(range(BINS))
    assert bin_of(1e9) == BINS - 1


def test_a_few_pauses_change_little_and_many_change_all() -> None:
    counts = PauseCounts()
    for number in range(500):
        counts.add(5.0, ended=True)
        if number == 0:
            assert refined(counts)[bin_of(5.0)] < 0.4
    shares = refined(counts)
    assert shares[bin_of(5.0)] > 0.95
    assert max(shares[: bin_of(5.0)]) < 0.05
    assert shares[bin_of(5.0) + 1 :] == list(PRIOR[bin_of(5.0) + 1 :]), "no pause has reached these bins"


def test_a_pause_that_is_not_waited_for_says_only_how_long_it_lasted() -> None:
    counts = PauseCounts()
    for _ in range(100):
        counts.add(20.0, ended=False)
    shares = refined(counts)
    assert max(shares[: bin_of(20.0) + 1]) < 0.05
    assert shares[bin_of(20.0) + 1] == PRIOR[0]


def test_what_has_changed_is_forgotten() -> None:
    counts = PauseCounts()
    for pause in (5.0, 50.0):
        for _ in range(5000):
            counts.add(pause, ended=True)
    shares = refined(counts)
    assert shares[bin_of(5.0)] < 0.02
    assert shares[bin_of(50.0)] > 0.95


@given(SHARES, st.integers(0, BINS - 1))
def test_the_rate_is_the_best_of_all_times_to_wait_until(shares: list[float], first: int) -> None:
    ends = (*EDGES[1:], 2 * EDGES[-1])

    def rate_until(last: int) -> float:
        waiting = [1.0]
        for number in range(first, last + 1):
            waiting.append(waiting[-1] * (1 - shares[number]))
        spans = range(first, last + 1)
        seconds = sum(
            (ends[number] - EDGES[number]) * (waiting[number - first] + waiting[number - first + 1]) / 2
            for number in spans
        )
        return (1 - waiting[-1]) / seconds

    assert return_rate(shares[first:], first) == pytest.approx(max(map(rate_until, range(first, BINS))))
