"""Where a step goes whose session is not live, so that it has to pass the gate. Pure.

A session resumes at its home, the worker that has its KV, unless to wait there costs more than to rebuild it elsewhere.
How long the gate will stay closed is not known, so it waits at home for as long as rebuilding would take, and then goes
where the gate is open: at most twice the better of the two.
"""

from collections.abc import Set as AbstractSet

from roost_gateway.routing.choice import DEFAULT_PREFILL_RATE, Choice, StepNeed, WorkerState, cheapest, eligible
from roost_gateway.routing.worker_index import WorkerIndex


def is_open(worker: WorkerState, tokens: int) -> bool:
    """Whether the worker's gate seems open for a session that needs `tokens` there; the store decides."""
    return worker.gate_room >= tokens


def choose(index: WorkerIndex, need: StepNeed, excluded: AbstractSet[str], waited_seconds: float) -> Choice | None:
    """The best worker for a step that has waited at the gate for so long, or None when no worker may serve it.

    Only workers count whose gate seems open, and all of them while it is closed everywhere; but a session waits at home
    as long as it is worth that.
    """
    home = index.states.get(need.owner)
    if home is not None and eligible(need, home, excluded) and not is_open(home, need.gate_tokens):
        rate = index.fastest_rate(need.model_revision, excluded | {need.owner}) or DEFAULT_PREFILL_RATE
        if waited_seconds < _kept(need) / rate:
            return cheapest(need, [home])
    return index.choose(need, excluded, need.gate_tokens) or index.choose(need, excluded)


def _kept(need: StepNeed) -> int:
    """Tokens that home has of the session, on its device and in host memory."""
    return need.cached.get(need.owner, 0) + need.warm.get(need.owner, 0)
