"""What the engine's benchmark says in the end: medians, ratios between engines, and whether goals are met. Pure."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from figures import judged, spread

ROOST = "roost"
PHASES = ("prefill", "decode")


class Beside(StrEnum):
    """What runs beside the engine that is measured."""

    NOTHING = "nothing"
    HOG = "hog"


@dataclass(frozen=True)
class Cell:
    """One shape of load."""

    batch: int
    prompt: int
    output: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.prompt}+{self.output}"


class Measured(NamedTuple):
    """What a rate was measured of."""

    engine: str
    cell: Cell
    phase: str
    beside: Beside


Rates = Mapping[Measured, Sequence[float]]
"""Tokens per second, one entry per round."""

Medians = Mapping[tuple[Cell, str], float]
"""Of one engine beside one thing, by cell and phase."""


class Goal(NamedTuple):
    """A number of the summary that has to be high enough."""

    name: str
    path: tuple[str, ...]
    at_least: float


GOALS = (
    Goal("quiet, of vLLM, worst cell", ("roost_over", "nothing", "vllm", "worst", "ratio"), 1.0),
    Goal("quiet, of vLLM, geometric mean", ("roost_over", "nothing", "vllm", "geometric_mean", "all"), 1.2),
    Goal("beside the hog, of quiet, worst cell", ("hog_over_quiet", ROOST, "worst", "ratio"), 0.45),
    Goal("beside the hog, of vLLM, worst cell", ("roost_over", "hog", "vllm", "worst", "ratio"), 1.0),
)


def summarise(rates: Rates) -> dict[str, Any]:
    """Medians with their spread; ratios of Roost to its peers, and of each engine beside the hog to itself; goals.

    A ratio is one of medians of tokens per second, for every cell that both were measured in. Of each set of ratios
    there are the geometric mean, by phase and in all, and the worst cell.
    """
    engines = list(dict.fromkeys(measured.engine for measured in rates))
    summary = {
        "tokens_per_second": _table(rates),
        "roost_over": {
            beside.value: _ratio_sets(
                (engine, _medians(rates, ROOST, beside), _medians(rates, engine, beside))
                for engine in engines
                if engine != ROOST
            )
            for beside in Beside
        },
        "hog_over_quiet": _ratio_sets(
            (engine, _medians(rates, engine, Beside.HOG), _medians(rates, engine, Beside.NOTHING)) for engine in engines
        ),
    }
    return {**summary, "goals": judged_goals(summary)}


def judged_goals(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the goals for which the summary has a number, each with `measured` and `met`."""
    numbers = ((goal, _number(summary, goal.path)) for goal in GOALS)
    return [judged(goal.name, number, at_least=goal.at_least) for goal, number in numbers if number is not None]


def ratios(above: Medians, below: Medians) -> dict[str, Any] | None:
    """Ratios by cell and phase, their geometric means and the worst one; None where nothing was measured of both."""
    values = {key: above[key] / below[key] for key in above if key in below}
    if not values:
        return None
    cells: dict[str, dict[str, float]] = {}
    for (cell, phase), value in values.items():
        cells.setdefault(str(cell), {})[phase] = round(value, 3)
    by_phase = {phase: [value for (_, other), value in values.items() if other == phase] for phase in PHASES}
    (cell, phase), worst = min(values.items(), key=lambda item: item[1])
    return {
        "cells": cells,
        "geometric_mean": {
            name: round(statistics.geometric_mean(some), 3)
            for name, some in (*by_phase.items(), ("all", [*values.values()]))
            if some
        },
        "worst": {"cell": str(cell), "phase": phase, "ratio": round(worst, 3)},
    }


def _medians(rates: Rates, engine: str, beside: Beside) -> Medians:
    return {
        (measured.cell, measured.phase): statistics.median(some)
        for measured, some in rates.items()
        if (measured.engine, measured.beside) == (engine, beside)
    }


def _ratio_sets(pairs: Iterable[tuple[str, Medians, Medians]]) -> dict[str, Any]:
    sets = {engine: ratios(above, below) for engine, above, below in pairs}
    return {engine: some for engine, some in sets.items() if some is not None}


def _table(rates: Rates) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for (engine, cell, phase, beside), measured in rates.items():
        phases = table.setdefault(beside.value, {}).setdefault(str(cell), {})
        phases.setdefault(phase, {})[engine] = spread(measured)
    return table


def _number(summary: Any, path: Sequence[str]) -> float | None:
    for key in path:
        if key not in summary:
            return None
        summary = summary[key]
    return float(summary)
