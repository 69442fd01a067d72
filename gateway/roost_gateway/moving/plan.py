"""Which sessions of a worker that is about to drain move where, and in which order. Pure.

The soonest to return goes first: sessions that are held before others, by when they are expected, in steps of powers of
two; of those that are alike the largest, since it costs its client most. Each gets the home that routing would choose
for it now, with what was planned before it counted: its tokens as reserved, its computing as backlog.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from roost.store.moves import Resident
from roost_gateway.routing.choice import DEFAULT_PREFILL_RATE, StepNeed, WorkerState
from roost_gateway.routing.worker_index import WorkerIndex


def plan(
    residents: Iterable[Resident], homes: Iterable[WorkerState], seconds: float, now_ms: int
) -> Mapping[str, Sequence[Resident]]:
    """By the id of its new home, the sessions to compute there, one after the other.

    No home gets more tokens than are free beside its reservations, nor more than it computes in `seconds` at its rate;
    sessions for which there is no such home are left out.
    """
    index, planned = WorkerIndex(homes), defaultdict[str, list[Resident]](list)
    for resident in sorted(residents, key=lambda resident: _order(resident, now_ms)):
        home = _home(resident, index)
        if home is None:
            continue
        busy_seconds = home.backlog_seconds + rebuild_seconds(resident, home)
        if busy_seconds <= seconds:
            reserved = home.reserved_tokens + resident.log_tokens
            index.put(replace(home, reserved_tokens=reserved, backlog_seconds=busy_seconds))
            planned[home.worker_id].append(resident)
    return planned


def rebuild_seconds(resident: Resident, home: WorkerState) -> float:
    return resident.log_tokens / (home.lease.prefill_rate or DEFAULT_PREFILL_RATE)


def _home(resident: Resident, index: WorkerIndex) -> WorkerState | None:
    """The cheapest worker with room, or None."""
    need = StepNeed(resident.session_id, resident.model_revision, resident.log_tokens, new_tokens=0)
    too_small = set[str]()
    while (choice := index.choose(need, too_small)) is not None:
        if choice.worker.free_tokens >= resident.log_tokens:
            return choice.worker
        too_small.add(choice.worker.worker_id)
    return None


def _order(resident: Resident, now_ms: int) -> tuple[bool, int, int, str]:
    """A session that has been away for long is expected to stay away for as long again, unless a hold says more."""
    hold = resident.hold
    if hold is None:
        away_ms = now_ms - resident.updated_ms
    elif hold.expect_seconds:
        away_ms = round(hold.begin_ms + hold.expect_seconds * 1000) - now_ms
    else:
        away_ms = now_ms - hold.begin_ms
    octave = (max(0, away_ms) // 1000).bit_length()
    return hold is None, octave, -resident.log_tokens, resident.session_id
