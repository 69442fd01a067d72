"""Where a step goes whose session is not live, so that it has to pass the gate. Pure.

A session resumes at its home, the worker that has its KV, unless to wait there costs more than to rebuild it elsewhere.
How long the gate will stay closed is not known, so it waits at home for as long as rebuilding would take, and then goes
where the gate is open: at most twice the better of the two.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from roost_gateway.routing.choice import DEFAULT_PREFILL_RATE, StepNeed, WorkerState, eligible

_NONE: frozenset[str] = frozenset()


def is_open(worker: WorkerState, tokens: int) -> bool:
    """Whether the worker's gate seems open for a session that needs `tokens` there; the store decides."""
    return worker.live_tokens == 0 or worker.live_tokens + tokens <= worker.live_limit


def left_out(
    need: StepNeed, workers: Mapping[str, WorkerState], excluded: AbstractSet[str], waited_seconds: float
) -> AbstractSet[str]:
    """Ids of the workers that a step leaves out which has waited at the gate for so long. None while every gate is
    closed, except that it waits at home as long as it is worth that."""
    able = {name: worker for name, worker in workers.items() if eligible(need, worker, excluded)}
    closed = {name for name, worker in able.items() if not is_open(worker, need.gate_tokens)}
    if need.owner in closed and _kept(need) and waited_seconds < _rebuild_seconds(need, able):
        return able.keys() - {need.owner}
    return closed if len(closed) < len(able) else _NONE


def _kept(need: StepNeed) -> int:
    """Tokens that home has of the session, on its device and in host memory."""
    return need.cached.get(need.owner, 0) + need.warm.get(need.owner, 0)


def _rebuild_seconds(need: StepNeed, workers: Mapping[str, WorkerState]) -> float:
    """Seconds that the fastest other worker takes to compute what home has."""
    rates = [
        worker.lease.prefill_rate or DEFAULT_PREFILL_RATE for name, worker in workers.items() if name != need.owner
    ]
    return _kept(need) / max(rates, default=DEFAULT_PREFILL_RATE)
