"""Which worker a step goes to. Pure: leases and costs in, a choice out.

    cost(w) = wait(w) + backlog(w) + warm(w) / restore_rate(w) + missing(w) / prefill_rate(w) + load(w)

- `wait(w)`, seconds until there is room: 0 with room, else the time of one running step times how many must end.
- `warm(w)`, tokens to copy from host memory, as the worker publishes; they are computed where that is faster.
- `missing(w)`, tokens to compute: the log and the new prompt, less what the worker publishes that it has cached.
  So affinity is a saving, not a rule: a session leaves its worker exactly when the queue there costs more than
  rebuilding elsewhere, and a session whose KV was dropped has nothing to leave.
- `backlog(w)`, seconds for which the worker computes the logs of steps that this gateway has just placed there
  (`backlog.py`): sessions of a worker that died spread by what rebuilding them costs.
- `load(w)`, at most LOAD_SECONDS: shares of KV reserved and of running slots in use, so that equal workers fill evenly.

A worker that is about to drain (`lease.leaving`) is a choice only for the sessions that it has cached.

Few workers are compared: those that have something of the session cached, and the best of all others (`Room`), which
`worker_index` finds. No step waits for a full worker that has nothing of its session while another worker has room.

Ties go to the worker that committed the session's last step, then to the next worker on a ring of hashes, from the
session's own place on: N gateways agree, and sessions spread.
"""

import hashlib
import math
import sys
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Self

from roost.contract.lease import WorkerLease
from roost.store.worker_views import WorkerView
from roost.store.working_set import WHOLE

DEFAULT_PREFILL_RATE = 2000.0
DEFAULT_DECODE_RATE = 30.0
"""Tokens per second assumed of a worker that has not measured its own yet."""
TYPICAL_STEP_TOKENS = 64
LOAD_SECONDS = 0.05
TICKS_PER_SECOND = 10_000
"""Costs are compared in ticks, so that what differs by less is a tie."""
RATE_CLASSES = 8
"""Prefill rates are distinguished by eighths of an octave (9 %): measurements of equal machines differ by less."""
QUEUED_PER_RUNNING = 2
"""The ledger grants attempts up to twice what a worker runs at once (`has_room` in `_ledger.lua`)."""
ANY_TOKENS = sys.maxsize


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker as a gateway knows it: what it publishes, and what the ledger holds against it."""

    lease: WorkerLease
    reserved_tokens: int = 0
    """KV slots."""
    reserved_attempts: int = 0
    live_tokens: int = 0
    """KV slots that the live sessions there need."""
    live_limit: int = 0
    """How many they may need; 0 when that is not known."""
    backlog_seconds: float = 0.0
    """How long it computes logs of steps that were placed there a moment ago."""

    @classmethod
    def of(cls, view: WorkerView) -> Self:
        limit = view.live_target * view.lease.capacity_tokens // WHOLE
        return cls(view.lease, view.reserved_tokens, view.reserved_attempts, view.live_tokens, limit)

    @property
    def worker_id(self) -> str:
        return self.lease.worker_id

    @property
    def start(self) -> tuple[str, str]:
        """Identifies this start of the worker; after a restart it is another."""
        return self.lease.worker_id, self.lease.boot

    @property
    def address(self) -> str:
        return self.lease.address

    @property
    def model_revision(self) -> str:
        return self.lease.model_revision

    @property
    def free_tokens(self) -> int:
        return self.lease.capacity_tokens - self.reserved_tokens

    @property
    def gate_room(self) -> int:
        """Most tokens of a session that is not live for which the gate seems open, and the store decides; -1 when it
        is closed to any."""
        return max(-1, self.live_limit - self.live_tokens) if self.live_tokens else ANY_TOKENS


@dataclass(frozen=True, slots=True)
class StepNeed:
    """What a step needs of a worker."""

    session_id: str
    model_revision: str
    """Empty: any revision will do."""
    log_tokens: int
    new_tokens: int
    """Estimate of prompt and output."""
    cached: Mapping[str, int] = field(default_factory=dict)
    """Tokens of the log that workers have cached on their devices, by worker id, as they publish."""
    owner: str = ""
    """Worker that committed the session's last step; it wins ties and nothing else."""
    warm: Mapping[str, int] = field(default_factory=dict)
    """Tokens behind those that they have in host memory."""
    prefix_tokens: int = 0
    """Estimate of system text and tools, which sessions share."""

    @property
    def tokens(self) -> int:
        return self.log_tokens + self.new_tokens

    def missing_at(self, worker_id: str) -> int:
        """Tokens of the log that a worker has to compute."""
        return max(0, self.log_tokens - self.cached.get(worker_id, 0) - self.warm.get(worker_id, 0))

    def has_kv_at(self, worker_id: str) -> bool:
        """Whether a worker has any of the log cached."""
        return bool(self.cached.get(worker_id) or self.warm.get(worker_id))

    @property
    def gate_tokens(self) -> int:
        """What it adds to a worker's live sessions at least: what it may share with them is not counted."""
        return max(0, self.tokens - self.prefix_tokens)


@dataclass(frozen=True, slots=True)
class Choice:
    """The best worker for a step. `tokens` is what to reserve there."""

    worker: WorkerState
    tokens: int
    cost_ticks: int

    @property
    def may_be_granted(self) -> bool:
        """Whether the ledger has room for the step, at least among those that wait at the worker."""
        return offers(Room.QUEUE, standing(self.worker), self.tokens)


class Room(IntEnum):
    """What room a worker has for a step that has nothing cached there. Of the first kind that any worker has, the best
    worker is compared with the workers that have something cached."""

    NOW = 0
    """Runs the step at once."""
    QUEUE = 1
    """Accepts the step, and runs it when another step ends."""
    FULL = 2


@dataclass(frozen=True, slots=True)
class Standing:
    """A worker's costs for any step, in ticks and without computing the prompt, and what it has room for."""

    rate_class: int
    load: int
    """Cost while there is room."""
    soon: int
    """`load`, and the wait until a step ends."""
    runs: bool
    queues: bool
    fits: int
    """Most tokens that it has room for; `ANY_TOKENS` when it is empty, since it then accepts a step of any size."""
    gate_room: int
    """As `WorkerState.gate_room`."""

    def cost(self, room: Room) -> int:
        return self.load if room is Room.NOW else self.soon


def standing(worker: WorkerState) -> Standing:
    load = _ticks(_load_seconds(worker))
    slots = worker.reserved_attempts + 1 - worker.lease.max_running
    return Standing(
        rate_class=rate_class_of(worker.lease.prefill_rate),
        load=load,
        soon=load + _ticks(_seconds_until(max(1.0, slots), worker)),
        runs=slots <= 0,
        queues=worker.reserved_attempts < QUEUED_PER_RUNNING * worker.lease.max_running,
        fits=worker.free_tokens if worker.reserved_tokens > 0 else ANY_TOKENS,
        gate_room=worker.gate_room,
    )


def cheapest(need: StepNeed, workers: Iterable[WorkerState]) -> Choice | None:
    """The choice of least cost among eligible workers, or None when there are none."""
    return min((_weigh(need, worker) for worker in workers), key=lambda choice: _order(need, choice), default=None)


def eligible(need: StepNeed, worker: WorkerState, excluded: AbstractSet[str]) -> bool:
    return (
        not worker.lease.draining
        and (not worker.lease.leaving or need.has_kv_at(worker.worker_id))
        and worker.worker_id not in excluded
        and need.model_revision in ("", worker.model_revision)
    )


def other_order(need: StepNeed, room: Room, place: Standing, worker_id: str) -> tuple[int, int]:
    """Sort key of the workers with such room, without regard to what they have cached."""
    return compute_ticks(need.tokens, place.rate_class) + place.cost(room), ring_distance(need.session_id, worker_id)


def ring_distance(session_id: str, worker_id: str) -> int:
    return (ring_place(worker_id) - ring_place(session_id)) % 2**64


@lru_cache(maxsize=100_000)
def ring_place(name: str) -> int:
    """Place of a session or worker on the ring."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def offers(room: Room, place: Standing, tokens: int) -> bool:
    """Whether a worker offers such room for a step of `tokens`."""
    if room is Room.FULL:
        return True
    return place.fits >= tokens and (place.runs if room is Room.NOW else place.queues)


def _weigh(need: StepNeed, worker: WorkerState) -> Choice:
    """A step larger than a worker reserves the whole of it: the estimate may be wrong, and only the worker knows."""
    tokens = min(need.tokens, worker.lease.capacity_tokens)
    missing = max(0, need.tokens - need.cached.get(worker.worker_id, 0))
    waiting, load = _ticks(_wait_seconds(tokens, worker)), _ticks(_load_seconds(worker))
    return Choice(worker, tokens, waiting + _prefill_ticks(missing, need.warm.get(worker.worker_id, 0), worker) + load)


def _prefill_ticks(missing: int, warm: int, worker: WorkerState) -> int:
    """Cost of the tokens that are not on the worker's device, of which `warm` may come from its host memory."""
    rate_class = rate_class_of(worker.lease.prefill_rate)
    computing = compute_ticks(missing, rate_class)
    if not warm or not worker.lease.restore_rate:
        return computing
    return min(computing, compute_ticks(max(0, missing - warm), rate_class) + _ticks(warm / worker.lease.restore_rate))


def _wait_seconds(tokens: int, worker: WorkerState) -> float:
    """Seconds until there is room. Room comes as steps end; each is assumed to hold an equal share of what is
    reserved."""
    short = tokens - worker.free_tokens
    slots = worker.reserved_attempts + 1 - worker.lease.max_running
    if short <= 0 and slots <= 0:
        return 0.0
    share = worker.reserved_tokens / max(1, worker.reserved_attempts)
    return _seconds_until(max(slots, short / max(1.0, share), 1.0), worker)


def _seconds_until(ends: float, worker: WorkerState) -> float:
    step_seconds = TYPICAL_STEP_TOKENS / (worker.lease.decode_rate or DEFAULT_DECODE_RATE)
    return step_seconds * (ends + worker.lease.waiting) / max(1, worker.reserved_attempts)


def _load_seconds(worker: WorkerState) -> float:
    """What any step costs there, besides waiting for room and computing."""
    kv = worker.reserved_tokens / max(1, worker.lease.capacity_tokens)
    slots = worker.reserved_attempts / max(1, worker.lease.max_running)
    return worker.backlog_seconds + LOAD_SECONDS * (min(1.0, kv) + min(1.0, slots)) / 2


def rate_class_of(prefill_rate: float) -> int:
    """Class of a prefill rate; rates of one class count as equal."""
    return round(RATE_CLASSES * math.log2(prefill_rate or DEFAULT_PREFILL_RATE))


def rate_of(rate_class: int) -> float:
    """Tokens per second for which a class stands."""
    return float(2.0 ** (rate_class / RATE_CLASSES))


def compute_ticks(tokens: int, rate_class: int) -> int:
    return _ticks(tokens / rate_of(rate_class))


def _ticks(seconds: float) -> int:
    return round(seconds * TICKS_PER_SECOND)


def _order(need: StepNeed, choice: Choice) -> tuple[int, bool, int]:
    worker_id = choice.worker.worker_id
    return choice.cost_ticks, worker_id != need.owner, ring_distance(need.session_id, worker_id)
