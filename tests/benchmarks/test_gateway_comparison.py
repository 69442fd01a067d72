"""What the gateway's benchmark concludes from rounds of two trees."""

from collections.abc import Sequence
from typing import Any

import pytest
from gateway_comparison import compared
from gateway_load import Sample

from roost.contract.steps import Deltas


def rounds(*gateway_ms: float) -> list[Sample]:
    """A sample per round, in which the gateway took so much CPU for a step."""
    return [Sample(0.02, first=[1.0], delta=[1.0], step=[1.0], cpu_ms={"gateway": cpu}) for cpu in gateway_ms]


def comparison(new: dict[Deltas, float], highest: dict[str, Sequence[float]]) -> dict[str, Any]:
    samples = {(deltas, "new"): rounds(cpu, cpu, 99.0) for deltas, cpu in new.items()}
    samples |= {(deltas, "old"): rounds(8.0, 0.1, 8.0) for deltas in Deltas}
    directs = {
        key: [Sample(0.02, first=[0.75], delta=[0.75], step=[0.75]) for _ in each] for key, each in samples.items()
    }
    return compared(samples, directs, highest, "new", "old")


def test_ratios_are_those_of_medians() -> None:
    result = comparison(
        {Deltas.NONE: 1.0, Deltas.INTERVAL: 4.0, Deltas.EACH: 8.0}, {"new": [200, 300, 400], "old": [75, 100, 50]}
    )
    assert result["gateway_cpu_ratio"] == {"none": 0.125, "interval": 0.5, "each": 1.0}
    assert result["highest_rate_ratio"] == 4.0
    assert result["by_deltas"]["none"]["new"]["added_ms"]["first"]["p50"]["median"] == 0.25


@pytest.mark.parametrize(("share", "met"), [(1.0, [True, True, True]), (1.01, [False, False, False])])
def test_goals_of_cpu(share: float, met: list[bool]) -> None:
    limits = {Deltas.NONE: 1.0, Deltas.INTERVAL: 2.0, Deltas.EACH: 4.0}
    result = comparison({deltas: limit * share for deltas, limit in limits.items()}, {"new": [1.0], "old": [0.0]})
    assert [goal["met"] for goal in result["goals"]] == met


@pytest.mark.parametrize(("new", "met"), [(400.0, True), (375.0, False)])
def test_goal_of_the_highest_rate(new: float, met: bool) -> None:
    result = comparison(dict.fromkeys(Deltas, 1.0), {"new": [new], "old": [100.0]})
    assert result["goals"][-1]["met"] == met


def test_no_ratio_where_the_other_tree_took_no_rate() -> None:
    result = comparison(dict.fromkeys(Deltas, 1.0), {"new": [100.0], "old": [0.0]})
    assert result["highest_rate_ratio"] is None
    assert "highest rate" not in [goal["goal"] for goal in result["goals"]]
