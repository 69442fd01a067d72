"""What the GPU's benchmark concludes from what it has measured."""

from dataclasses import replace
from typing import Any

import pytest
from gpu_summary import PUBLISHED, TINY, agreement, busy_time, host_share, judged_goals, longest_first


def verdicts(parts: dict[str, Any], *, is_published: bool = True) -> list[tuple[str, float, bool]]:
    goals = judged_goals(parts, is_published=is_published)
    return [(goal["goal"], goal["measured"], goal["met"]) for goal in goals]


def test_time_in_which_two_kernels_run_counts_once() -> None:
    assert busy_time([(10.0, 14.0), (0.0, 3.0), (2.0, 5.0), (11.0, 12.0)]) == 9.0
    assert busy_time([]) == 0.0


def test_the_hosts_share_is_what_the_device_leaves_of_a_step() -> None:
    assert host_share(0.010, 0.009) == pytest.approx(0.1)
    assert host_share(0.010, 0.011) == 0.0, "a profiled step may take longer than the others"
    assert host_share(0.010, None) is None


def test_a_profile_sums_by_name_and_is_of_one_step() -> None:
    times = [("small", 1.0), ("large", 30.0), ("small", 3.0), ("large", 10.0), ("tiny", 0.5)]
    assert longest_first(times, steps=2, most=2) == [
        {"name": "large", "calls": 1.0, "microseconds": 20.0},
        {"name": "small", "calls": 1.0, "microseconds": 2.0},
    ]


def test_the_earliest_difference_is_the_first() -> None:
    result = agreement([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[1, 2, 0], [4, 5, 6], [7, 0, 9]])
    assert result == {"sequences": 3, "equal": 1, "first_difference": {"token": 1, "sequence": 2}}


def test_equal_outputs_have_no_difference() -> None:
    assert agreement([[1], [2]], [[1], [2]]) == {"sequences": 2, "equal": 2, "first_difference": None}


def test_an_output_that_is_cut_off_differs_where_it_ends() -> None:
    assert agreement([[1, 2, 3]], [[1, 2]])["first_difference"] == {"token": 2, "sequence": 0}


def test_goals_of_speed() -> None:
    step = {"tokens_per_second": 23_000.0, "host_share": 0.1}
    parts = {"offline": {"torch": {"tokens_per_second": 20_000.0}}, "decode": {"torch": {"8": {}, "32": step}}}
    assert verdicts(parts) == [
        ("torch: offline, tokens/s", 20_000.0, True),
        ("torch: decode at 32 rows, tokens/s", 23_000.0, False),
        ("torch: decode at 32 rows, host's share", 0.1, True),
    ]


def test_equal_tokens_are_a_goal_at_every_size_and_those_of_speed_are_not() -> None:
    parts = {
        "offline": {"auto": {"tokens_per_second": 1.0}},
        "equal": {"auto": {"sequences": 4, "equal": 4}, "torch": {"sequences": 4, "equal": 3}},
    }
    assert verdicts(parts, is_published=False) == [
        ("auto: sequences of equal tokens", 4, True),
        ("torch: sequences of equal tokens", 3, False),
    ]


def test_a_part_that_failed_and_a_share_that_is_not_known_have_no_goal() -> None:
    failed = {"torch": {"error": "RuntimeError: no memory"}}
    assert verdicts({"offline": failed, "decode": failed, "equal": failed}) == []
    step = {"tokens_per_second": 24_000.0, "host_share": None}
    assert len(verdicts({"decode": {"torch": {"32": step}}})) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"longest": 4096}, "lengths 100 4096: must go up, from 1 to 2048 at most"),
        ({"shortest": 2000}, "lengths 2000 1024"),
        ({"rows": ()}, "rows"),
        ({"steps": 0}, "steps 0: must be at least 1"),
        ({"prompt": 2048}, "prompt, steps and profiled_steps: must be 2048 at most together"),
        ({"equal_output": 4000}, "equal_output 4000"),
        ({"batch_tokens": 64}, "batch_tokens 64: must be at least 256"),
    ],
)
def test_sizes_that_cannot_be_measured_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PUBLISHED, **changes)


def test_all_sequences_may_run_at_once() -> None:
    assert (PUBLISHED.most_running, TINY.most_running) == (256, 4)
