"""Which busy worker is relieved by which idle worker, and which of its sessions goes next. Pure.

Routing leaves a home only when the ledger has no room there: until then steps wait at a busy worker while another
idles. A worker is relieved once a step would have waited there by `BEGIN_SECONDS` longer than at an idle one, for
`PERSIST_SECONDS`, and until the difference is below `END_SECONDS`. A session that was moved stays where it is for
`STAY_SECONDS`, so that none goes to and fro. Times are seconds of one clock unless said otherwise.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from roost.store.moves import Resident
from roost_gateway.moving.plan import rebuild_seconds
from roost_gateway.routing.choice import DEFAULT_DECODE_RATE, TYPICAL_STEP_TOKENS, WorkerState
from roost_gateway.routing.gate import is_open

BEGIN_SECONDS, END_SECONDS = 0.2, 0.05
"""The ledger lets no more steps wait at a worker than run there, so that no wait is longer than a typical step."""
PERSIST_SECONDS = 5.0
STAY_SECONDS = 120.0
ACTIVE_SECONDS = 120.0
"""A session without a step for longer adds nothing to the load of its worker."""


class Relief(NamedTuple):
    """Sessions should go from a busy worker to an idle one."""

    busy: WorkerState
    idle: WorkerState


def expected_wait(worker: WorkerState) -> float:
    """Return after how many seconds a step that comes to a worker now would begin to run, behind those that wait there.

    They begin as those that run end, each of which takes as long as a typical step.
    """
    lease = worker.lease
    waiting = max(lease.waiting, worker.reserved_attempts - lease.max_running)
    step_seconds = TYPICAL_STEP_TOKENS / (lease.decode_rate or DEFAULT_DECODE_RATE)
    return step_seconds * max(0, waiting) / max(1, lease.running)


def may_relieve(worker: WorkerState) -> bool:
    """Whether a worker is idle enough to compute others' sessions: less than half of its slots are used, nothing waits,
    and it stays."""
    lease = worker.lease
    return not lease.stops and not expected_wait(worker) and 2 * worker.reserved_attempts < lease.max_running


class Imbalances:
    """The workers of one pool at which steps wait, and since when."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}

    def observe(
        self, workers: Iterable[WorkerState], now: float, passed_over: AbstractSet[tuple[str, str]] = frozenset()
    ) -> list[Relief]:
        """Take a reading of all workers. Return who is to be relieved by whom: each idle worker relieves one. Those
        whose starts are `passed_over` are not relieved, and relieve none."""
        by_revision: dict[str, list[WorkerState]] = {}
        for worker in workers:
            if not worker.lease.stops:
                by_revision.setdefault(worker.model_revision, []).append(worker)
        since, self._since = self._since, {}
        return [relief for group in by_revision.values() for relief in self._reliefs(group, since, now, passed_over)]

    def _reliefs(
        self,
        workers: list[WorkerState],
        since: dict[tuple[str, str], float],
        now: float,
        passed_over: AbstractSet[tuple[str, str]],
    ) -> Iterable[Relief]:
        able = (worker for worker in workers if may_relieve(worker) and worker.start not in passed_over)
        idle = sorted(able, key=lambda worker: (worker.reserved_attempts, worker.worker_id))
        busy = sorted(workers, key=lambda worker: (-expected_wait(worker), worker.worker_id))
        for worker in busy if idle else ():
            wait = expected_wait(worker)
            if wait < (END_SECONDS if worker.start in since else BEGIN_SECONDS):
                continue
            begin = self._since[worker.start] = since.get(worker.start, now)
            if idle and now - begin >= PERSIST_SECONDS and worker.start not in passed_over:
                yield Relief(worker, idle.pop(0))


def next_to_move(residents: Iterable[Resident], home: WorkerState, now_ms: int) -> Resident | None:
    """Return the session in pause that is computed soonest at its new home, or None when none should go there."""
    able = (resident for resident in residents if _may_move(resident, home, now_ms))
    return min(able, key=lambda resident: (resident.log_tokens, resident.session_id), default=None)


def _may_move(resident: Resident, home: WorkerState, now_ms: int) -> bool:
    stays = resident.moved_ms and now_ms - resident.moved_ms < STAY_SECONDS * 1000
    active = now_ms - resident.updated_ms < ACTIVE_SECONDS * 1000
    tokens = resident.log_tokens
    has_room = tokens <= home.free_tokens and (not home.live_limit or is_open(home, tokens))
    return active and has_room and not stays and not resident.busy and _pauses_long_enough(resident, home, now_ms)


def _pauses_long_enough(resident: Resident, home: WorkerState, now_ms: int) -> bool:
    """Whether the session is not expected back before its log is computed, as far as its client has said."""
    hold = resident.hold
    if hold is None or not hold.expect_seconds:
        return True
    due_ms = hold.begin_ms + hold.expect_seconds * 1000
    return due_ms - now_ms >= rebuild_seconds(resident, home) * 1000
