"""Costs of a worker by name, or from the JSON file that `roost calibrate` writes."""

import json
from pathlib import Path

from roost.config_document import from_document
from roost_gateway.simulator.costs import COSTS, WorkerCosts


def costs_of(name: str) -> WorkerCosts:
    """Return the costs of a name in `COSTS`, else those of the file at this path.

    Raise ValueError when there is neither, or when the file's content is wrong.
    """
    if name in COSTS:
        return COSTS[name]
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"no costs {name}; give one of {', '.join(COSTS)}, or a file that `roost calibrate` wrote")
    try:
        return from_document(WorkerCosts, json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
