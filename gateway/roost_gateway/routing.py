"""Which worker a step goes to. Pure: leases and costs in, a choice out.

    cost(w) = wait(w) + missing(w) / prefill_rate(w) + load(w)

- `wait(w)`, seconds until there is room: 0 with room, else the time of one running step times how many must end.
- `missing(w)`, tokens to compute: the log and the new prompt, less what the worker publishes that it has cached.
  Affinity is thus no rule but a saving: a session leaves its worker exactly when the queue there costs more than
  rebuilding elsewhere, and a session whose KV was dropped has nothing to leave.
- `load(w)`, at most LOAD_SECONDS: shares of KV reserved and of running slots in use, so that equal workers fill evenly.

Ties go to the worker that committed the session's last step, then by a hash of session and worker (rendezvous
hashing): N gateways agree, and sessions spread.
"""

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

DEFAULT_PREFILL_RATE = 2000.0
DEFAULT_DECODE_RATE = 30.0
"""Tokens per second assumed of a worker that has not measured its own yet."""
TYPICAL_STEP_TOKENS = 64
LOAD_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker as a gateway knows it. Tokens are KV slots, rates tokens per second (0: not known yet)."""

    worker_id: str
    boot: str
    address: str
    model_revision: str
    capacity_tokens: int
    max_running: int
    reserved_tokens: int = 0
    reserved_attempts: int = 0
    waiting: int = 0
    prefill_rate: float = 0.0
    decode_rate: float = 0.0
    bytes_per_token: float = 4.0
    draining: bool = False

    @property
    def free_tokens(self) -> int:
        return self.capacity_tokens - self.reserved_tokens


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
    """Tokens of the log that workers have cached, by worker id, as they publish."""
    owner: str = ""
    """Worker that committed the session's last step; it wins ties and nothing else."""

    @property
    def tokens(self) -> int:
        return self.log_tokens + self.new_tokens


@dataclass(frozen=True, slots=True)
class Choice:
    """The best worker for a step, and whether it has room now. `tokens` is what to reserve there."""

    worker: WorkerState
    tokens: int
    has_room: bool
    cost_seconds: float


def choose(need: StepNeed, workers: Sequence[WorkerState], excluded: AbstractSet[str] = frozenset()) -> Choice | None:
    """The worker of least cost that serves the step's revision, or None when there is none at all.

    A step larger than a worker reserves the whole of it: the estimate may be wrong, and only the worker knows.
    """
    choices = [_weigh(need, worker) for worker in workers if _eligible(need, worker, excluded)]
    return min(choices, key=lambda choice: _order(need, choice), default=None)


def serves_revision(need: StepNeed, workers: Sequence[WorkerState]) -> bool:
    """Whether any worker, draining or not, has the step's revision."""
    return any(need.model_revision in ("", worker.model_revision) for worker in workers)


def _eligible(need: StepNeed, worker: WorkerState, excluded: AbstractSet[str]) -> bool:
    return (
        not worker.draining and worker.worker_id not in excluded and need.model_revision in ("", worker.model_revision)
    )


def _weigh(need: StepNeed, worker: WorkerState) -> Choice:
    tokens = min(need.tokens, worker.capacity_tokens)
    wait = _wait_seconds(tokens, worker)
    missing = max(0, need.tokens - need.cached.get(worker.worker_id, 0))
    cost = wait + missing / (worker.prefill_rate or DEFAULT_PREFILL_RATE) + _load_seconds(worker)
    return Choice(worker, tokens, wait == 0.0, cost)


def _wait_seconds(tokens: int, worker: WorkerState) -> float:
    """Room comes as steps end; each is taken to hold an equal share of what is reserved."""
    short = tokens - worker.free_tokens
    slots = worker.reserved_attempts + 1 - worker.max_running
    if short <= 0 and slots <= 0:
        return 0.0
    step_seconds = TYPICAL_STEP_TOKENS / (worker.decode_rate or DEFAULT_DECODE_RATE)
    share = worker.reserved_tokens / max(1, worker.reserved_attempts)
    to_end = max(slots, short / max(1.0, share), 1.0)
    return step_seconds * (to_end + worker.waiting) / max(1, worker.reserved_attempts)


def _load_seconds(worker: WorkerState) -> float:
    kv = worker.reserved_tokens / max(1, worker.capacity_tokens)
    slots = worker.reserved_attempts / max(1, worker.max_running)
    return LOAD_SECONDS * (min(1.0, kv) + min(1.0, slots)) / 2


def _order(need: StepNeed, choice: Choice) -> tuple[float, bool, bytes]:
    worker_id = choice.worker.worker_id
    place = hashlib.blake2b(f"{need.session_id}|{worker_id}".encode(), digest_size=8).digest()
    return round(choice.cost_seconds, 4), worker_id != need.owner, place
