"""A simulated worker: a cache, an engine, and the steps that wait for them. Pure."""

from collections import deque
from dataclasses import dataclass, field

from roost_gateway.simulator.batched_engine import BatchedEngine
from roost_gateway.simulator.costs import WorkerCosts
from roost_gateway.simulator.engines import Engine, RecordedEngine
from roost_gateway.simulator.host_memory import HostMemory
from roost_gateway.simulator.job import Job
from roost_gateway.simulator.kv_cache import KvCache
from roost_worker.engine.retention import UNKNOWN_HOLD_SECONDS, RetentionPolicy


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What all workers of a simulation have in common."""

    kv_tokens: int = 780_000
    block_tokens: int = 64
    max_running: int = 256
    costs: WorkerCosts = field(default_factory=WorkerCosts)
    recorded_times: bool = False
    """Whether steps take the time that their trace recorded (`RecordedEngine`)."""
    holds: bool = True
    """Whether clients hold a session while a tool runs, without saying how long that takes."""
    context_tokens: int | None = None
    """Longest context of the model; None: as long as the worker's KV."""
    host_tokens: int = 0
    """Tokens of KV that host memory holds."""

    def __post_init__(self) -> None:
        if self.max_running < 1 or (self.context_tokens is not None and self.context_tokens < 1):
            raise ValueError("max_running and context_tokens must be at least 1")
        if self.host_tokens < 0:
            raise ValueError("host_tokens must be 0, for none, or more")

    @property
    def copy_block_seconds(self) -> float:
        return self.block_tokens * self.costs.copy_token_seconds

    def engine(self) -> Engine:
        engine = RecordedEngine if self.recorded_times else BatchedEngine
        return engine(self.costs, self.copy_block_seconds)

    def host_memory(self) -> HostMemory:
        slots = self.host_tokens // self.block_tokens
        return HostMemory(slots, self.block_tokens, 1 / self.copy_block_seconds, self.costs.prefill_rate)


class SimulatedWorker:
    """Runs the jobs that are given to it. Call `advance` when `next_time` has come."""

    def __init__(self, worker_id: str, settings: WorkerSettings, policy: RetentionPolicy) -> None:
        self.worker_id = worker_id
        self.cache = KvCache(settings.kv_tokens, settings.block_tokens, policy, settings.host_memory())
        self._settings = settings
        self._engine = settings.engine()
        self._waiting: deque[Job] = deque()

    @property
    def running(self) -> int:
        return len(self._engine)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def fits(self, job: Job) -> bool:
        """Return whether the job could run here, if nothing else did."""
        context = self._settings.context_tokens
        return (context is None or job.total_tokens <= context) and self.cache.fits(job)

    def next_time(self) -> float:
        """Return when the next event here is due; infinite when nothing runs."""
        return self._engine.next_time()

    def submit(self, job: Job, now: float) -> None:
        """Take a job, after `advance` to the same time."""
        cached = min(self.cache.cached_tokens(job.session), job.kept_tokens)
        job.expected_tokens = job.prompt_tokens - cached - self.cache.warm_tokens(job)
        self._waiting.append(job)
        self.admit(now)
        if self._waiting and self._waiting[-1] is job:
            self.cache.want(job.session, now)

    def advance(self, now: float) -> list[Job]:
        """Return the jobs that have ended by now. `park` each, and then `admit` others in their place."""
        return self._engine.advance(now)

    def park(self, job: Job, now: float) -> None:
        """Keep the KV of a job that has ended."""
        held = self._settings.holds and job.turn.calls_tool
        self.cache.park(job, now, now + UNKNOWN_HOLD_SECONDS if held else 0.0)

    def admit(self, now: float) -> None:
        """Run the jobs that wait here as far as there is room: first come, first served, but light prompts before heavy
        ones while heavy ones fill the batches, as the engine's scheduler does."""
        while self._waiting and len(self._engine) < self._settings.max_running:
            largest = self._engine.largest_prompt()
            job = next((job for job in self._waiting if job.expected_tokens <= largest), None)
            if job is None or not self.cache.admit(job, now):
                return
            self._waiting.remove(job)
            job.started = now
            self._engine.start(job, now)
