"""What the right choice of a worker is, found by looking at every worker; and workers to choose from."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields
from typing import Any

from leases import lease_of
from roost.contract.lease import WorkerLease
from roost_gateway.routing.choice import (
    DEFAULT_PREFILL_RATE,
    Choice,
    Room,
    StepNeed,
    WorkerState,
    cheapest,
    eligible,
    offers,
    other_order,
    rate_class_of,
    rate_of,
    standing,
)

_OF_LEASE = {field.name for field in fields(WorkerLease)}


def worker_of(name: str, **figures: Any) -> WorkerState:
    """A worker with the given fields of its lease and of its state."""
    lease = lease_of(name, **{key: value for key, value in figures.items() if key in _OF_LEASE})
    return WorkerState(lease, **{key: value for key, value in figures.items() if key not in _OF_LEASE})


def choose(need: StepNeed, workers: Sequence[WorkerState], excluded: AbstractSet[str] = frozenset()) -> Choice | None:
    """The worker of least cost that serves the step's revision, or None when no worker may serve it."""
    return _best(need, [worker for worker in workers if eligible(need, worker, excluded)])


def choose_at_gate(
    need: StepNeed, workers: Sequence[WorkerState], excluded: AbstractSet[str], waited_seconds: float
) -> Choice | None:
    """The same for a step that has waited at the gate for so long."""
    able = [worker for worker in workers if eligible(need, worker, excluded)]
    open_ones = [worker for worker in able if _lets_in(worker, need.gate_tokens)]
    home = next((worker for worker in able if worker.worker_id == need.owner and worker not in open_ones), None)
    others = [worker for worker in able if worker.worker_id != need.owner and not worker.lease.leaving]
    rate = max((rate_of(rate_class_of(worker.lease.prefill_rate)) for worker in others), default=DEFAULT_PREFILL_RATE)
    kept = need.cached.get(need.owner, 0) + need.warm.get(need.owner, 0)
    if home is not None and waited_seconds < kept / rate:
        return cheapest(need, [home])
    return _best(need, open_ones or able)


def _lets_in(worker: WorkerState, tokens: int) -> bool:
    return not worker.live_tokens or worker.live_tokens + tokens <= worker.live_limit


def _best(need: StepNeed, able: Sequence[WorkerState]) -> Choice | None:
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
