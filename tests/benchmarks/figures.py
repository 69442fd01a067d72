"""What the benchmarks share: percentiles, medians with their spread, goals, the machine, the JSON document."""

import json
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50 and p99 of `values`, interpolated."""
    cuts = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else [*values] * 99
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3)}


def spread(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Median, least and greatest of `values`, and how many there are."""
    return {
        "median": round(statistics.median(values), digits),
        "lowest": round(min(values), digits),
        "highest": round(max(values), digits),
        "count": len(values),
    }


def judged(goal: str, measured: float, *, at_least: float = 0.0, at_most: float = math.inf) -> dict[str, Any]:
    """A goal with its limits, what was measured, and whether it is met."""
    limits = {name: limit for name, limit in (("at_least", at_least), ("at_most", at_most)) if 0 < limit < math.inf}
    return {"goal": goal, **limits, "measured": round(measured, 3), "met": at_least <= measured <= at_most}


def in_words(goal: Mapping[str, Any]) -> str:
    """What `judged` says, on one line."""
    limit = f"at least {goal['at_least']:g}" if "at_least" in goal else f"at most {goal['at_most']:g}"
    return f"{goal['goal']}: {goal['measured']:g}, {limit}: {'met' if goal['met'] else 'MISSED'}"


def machine() -> str:
    """The machine and the interpreter, in words."""
    return f"{os.cpu_count()} cores, {_processor()}, Python {platform.python_version()}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def emit(document: dict[str, Any]) -> None:
    """Writes the document as the last line of stdout."""
    print(json.dumps(document), flush=True)
