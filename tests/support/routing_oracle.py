"""What the right choice of a worker is, found by looking at every worker; and workers to choose from."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields
from typing import Any

from leases import lease_of
from roost.contract.lease import WorkerLease
from roost_gateway.routing.choice import (
    Choice,
    Room,
    StepNeed,
    WorkerState,
    cheapest,
    eligible,
    offers,
    other_order,
    standing,
)

_OF_LEASE = {field.name for field in fields(WorkerLease)}


def worker_of(name: str, **figures: Any) -> WorkerState:
    """A worker with the given fields of its lease and of its state."""
    lease = lease_of(name, **{key: value for key, value in figures.items() if key in _OF_LEASE})
    return WorkerState(lease, **{key: value for key, value in figures.items() if key not in _OF_LEASE})


def choose(need: StepNeed, workers: Sequence[WorkerState], excluded: AbstractSet[str] = frozenset()) -> Choice | None:
    """The worker of least cost that serves the step's revision, or None when no worker may serve it."""
    able = [worker for worker in workers if eligible(need, worker, excluded)]
    names = {*need.cached, *need.warm, need.owner}
    related = [worker for worker in able if worker.worker_id in names]
    others = [(standing(worker), worker) for worker in able if not worker.lease.leaving]
    for room in Room:
        fitting = [(place, worker) for place, worker in others if offers(room, place, need.tokens)]
        if fitting:
            best = min(fitting, key=lambda pair: other_order(need, room, pair[0], pair[1].worker_id))
            return cheapest(need, [*related, best[1]])
    return cheapest(need, related)


def has_room(choice: Choice) -> bool:
    """Whether the chosen worker runs the step at once."""
    return offers(Room.NOW, standing(choice.worker), choice.tokens)
