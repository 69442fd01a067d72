"""What the benchmark of first tokens concludes from runs of two trees."""

from typing import Any

from resume_comparison import compared


def run(**median_ms: float) -> dict[str, Any]:
    return {"contexts": {"512": {"ttft_ms": {way: {"median": ms, "lowest": 0.0} for way, ms in median_ms.items()}}}}


def test_ratios_are_those_of_the_medians_of_rounds() -> None:
    runs = {
        "new": [run(hot=10.0, cold=90.0), run(hot=30.0, cold=10.0), run(hot=20.0, cold=80.0)],
        "old": [run(hot=40.0, cold=40.0)] * 3,
    }
    result = compared(runs, "new", "old")
    assert {way: ways["ratio"] for way, ways in result["512"].items()} == {"hot": 0.5, "cold": 2.0}
    assert result["512"]["hot"]["new"] == {"median": 20.0, "lowest": 10.0, "highest": 30.0, "count": 3}
