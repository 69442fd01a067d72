"""Sessions, gateway and workers on one virtual clock. Pure, and the same for the same arguments."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf

from roost.contract.lease import WorkerLease
from roost.contract.pool_document import DEFAULT_QUEUE_TIMEOUT_SECONDS
from roost_gateway.admission.admission_queue import QueueFullError
from roost_gateway.routing.choice import TYPICAL_STEP_TOKENS
from roost_gateway.simulator.arrivals import Arrivals, Start
from roost_gateway.simulator.clock import Clock
from roost_gateway.simulator.fairness import Fairness, VirtualTime
from roost_gateway.simulator.figures import Figures, Report
from roost_gateway.simulator.gates import Gate
from roost_gateway.simulator.history import History
from roost_gateway.simulator.job import Job
from roost_gateway.simulator.placement import NO_HOME, Home, Placement
from roost_gateway.simulator.worker import SimulatedWorker, WorkerSettings
from roost_gateway.simulator.workload import Session, Turn
from roost_worker.engine.retention import RetentionPolicy

PolicyFactory = Callable[[dict[str, float]], RetentionPolicy]
"""Makes a worker's retention policy. The argument says when each session's next step comes; only an oracle reads it."""

UNBOUNDED = 2**40
"""Tokens and steps that no load comes to."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers, all alike, and how long a step waits at the gateway for one."""

    workers: int = 1
    settings: WorkerSettings = field(default_factory=WorkerSettings)
    queue_timeout_seconds: float = DEFAULT_QUEUE_TIMEOUT_SECONDS
    """After that a step is refused, and its client sends it again when the refusal says so."""
    gate: Callable[[], Gate] | None = None
    """Makes what lets sessions in; None: whatever has room is let in."""
    refuses_held: bool = False
    """Whether a step that was held for as long as it may be is refused; otherwise it passes."""
    gateways: int = 1
    fairness: Callable[[], Fairness] = VirtualTime
    """Makes what orders the steps of one class by their tenants."""
    reserves: bool = True
    """Whether steps wait at the gateway until they can reserve what they need; else all wait at workers."""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.gateways < 1 or self.queue_timeout_seconds <= 0:
            raise ValueError("a fleet needs a worker, a gateway and a queue timeout above 0")

    def leases(self) -> Iterator[WorkerLease]:
        """Return what each worker publishes: rates of an idle worker, as it would have measured them."""
        costs = self.settings.costs
        room = (self.settings.kv_tokens, self.settings.max_running) if self.reserves else (UNBOUNDED, UNBOUNDED)
        for number in range(self.workers):
            yield WorkerLease(
                worker_id=f"worker-{number}",
                boot="1",
                address=f"worker-{number}:7434",
                model="simulated",
                model_revision="1",
                capacity_tokens=room[0],
                max_running=room[1],
                prefill_rate=costs.prefill_rate,
                decode_rate=1 / costs.batch_seconds(1, TYPICAL_STEP_TOKENS),
                restore_rate=1 / costs.copy_token_seconds if self.settings.host_tokens else 0.0,
            )


@dataclass(slots=True, eq=False)
class _Life:
    """A session that has begun and not ended."""

    session: Session
    turns: Iterator[Turn]
    shared_tokens: int
    context_tokens: int
    """Prompt and output of the last step; before it, the prefix."""
    computed_tokens: int
    """Of these, tokens with KV, had nothing been evicted."""
    owner: str = ""
    """The worker of the last step."""


class Simulation:
    """Call `run` once."""

    def __init__(self, fleet: Fleet, policy: PolicyFactory, arrivals: Arrivals, history: History | None = None) -> None:
        self._clock = Clock()
        self._arrivals = arrivals
        self._queue_timeout_seconds = fleet.queue_timeout_seconds
        self._returns: dict[str, float] = {}
        leases = list(fleet.leases())
        self._gate = fleet.gate() if fleet.gate else None
        self._refuses_held = fleet.refuses_held
        self._looks = False
        """Whether the next look at held steps is planned."""
        self._placement = Placement(leases, self._hold, self._gate, fleet.gateways, fleet.fairness())
        self.workers = {
            lease.worker_id: SimulatedWorker(lease.worker_id, fleet.settings, policy(self._returns)) for lease in leases
        }
        self._any_worker = next(iter(self.workers.values()))
        self._wakes: dict[str, float] = dict.fromkeys(self.workers, inf)
        """When each worker is planned to be looked at."""
        self._lives: dict[str, _Life] = {}
        self._figures = Figures(fleet.settings.costs)
        self._history = history
        self._away = 0
        """Steps that were refused and not sent again yet."""
        self.submitted = 0
        """Steps that clients have sent; one that is sent again counts once."""

    @property
    def resident_sessions(self) -> int:
        """How many sessions have begun and not ended."""
        return len(self._lives)

    def run(self, max_steps: int | None = None, max_seconds: float = inf) -> Report:
        """Simulate until all sessions have ended, `max_steps` steps have, or the clock passes `max_seconds`.

        Steps that end in the batch of the last one are counted, too. It ends as well when `max_steps` steps were too
        long for a worker: sessions may come without end.
        """
        for start in self._arrivals.first():
            self._plan(start)
        steps = inf if max_steps is None else max_steps
        with _no_garbage_collection():
            while self._figures.most_steps < steps and self._clock.now <= max_seconds and self._clock.step():
                pass
        evicted = sum(worker.cache.evicted_tokens for worker in self.workers.values())
        return self._figures.report(self._clock.now, evicted)

    def in_flight(self) -> int:
        """Return how many steps wait, run, or are about to be sent again."""
        busy = sum(worker.running + worker.waiting for worker in self.workers.values())
        return busy + self._placement.waiting + self._away

    def _steps_waiting(self) -> int:
        return self._placement.waiting + sum(worker.waiting for worker in self.workers.values())

    def _working_set_tokens(self) -> int:
        return sum(life.context_tokens for life in self._lives.values())

    def _plan(self, start: Start | None) -> None:
        if start is not None:
            self._clock.at(start.time, partial(self._begin, start.session))

    def _begin(self, session: Session) -> None:
        if session.name in self._lives:
            raise ValueError(f"two sessions are called {session.name}")
        self._figures.sessions_started += 1
        prefix = session.prefix_tokens
        life = _Life(session, iter(session.turns), prefix, prefix, prefix)
        self._lives[session.name] = life
        self._plan(self._arrivals.after_start(self._clock.now))
        if not self._next_turn(life):
            self._end(life)

    def _next_turn(self, life: _Life) -> bool:
        """Plan the session's next step. Return False when it has no further one."""
        turn = next(life.turns, None)
        if turn is None:
            return False
        time = self._clock.now + turn.gap_seconds
        self._returns[life.session.name] = time
        self._clock.at(time, partial(self._submit, life, turn))
        return True

    def _end(self, life: _Life) -> None:
        name = life.session.name
        self._placement.session_ended(name)
        del self._lives[name]
        self._returns.pop(name, None)
        if life.owner:
            self.workers[life.owner].cache.drop(name, self._clock.now)
        self._figures.sessions_ended += 1
        self._plan(self._arrivals.after_end(self._clock.now))

    def _submit(self, life: _Life, turn: Turn) -> None:
        session = life.session
        self.submitted += 1
        kept = min(turn.kept_tokens, life.context_tokens)
        life.shared_tokens = min(life.shared_tokens, kept)
        job = Job(
            session=session.name,
            prefix=session.prefix,
            shared_tokens=life.shared_tokens,
            kept_tokens=min(kept, life.computed_tokens),
            prompt_tokens=kept + turn.new_tokens,
            turn=turn,
            submitted=self._clock.now,
            continuation=bool(life.owner),
            tenant=session.tenant,
        )
        if self._any_worker.fits(job):
            self._arrive(job)
        else:
            self._figures.steps_too_long += 1
            self._end(life)

    def _arrive(self, job: Job) -> None:
        now = self._clock.now
        try:
            placed = self._placement.place(job, self._home(job), now)
        except QueueFullError as error:
            self._refuse(job, error.retry_seconds)
            return
        if placed:
            self._give(job)
        elif job.held:
            self._hold(job)
        else:
            self._clock.at(now + self._queue_timeout_seconds, partial(self._time_out, job, job.ticket))

    def _hold(self, job: Job) -> None:
        """Plan how long a job may be held, and when held ones are looked at."""
        assert self._gate is not None, "nothing is held without a gate"
        assert job.held_since is not None, "it is held"
        self._clock.at(job.held_since + self._gate.max_hold_seconds, partial(self._end_hold, job, job.ticket))
        self._plan_look()

    def _end_hold(self, job: Job, ticket: object) -> None:
        """Let a job pass, or refuse it, that has been held for as long as it may be."""
        if job.ticket is not ticket or job.held_since is None:
            return
        retry_seconds = self._placement.give_up(job, self._clock.now)
        job.held_seconds = max(job.held_seconds, self._clock.now - job.held_since)
        if self._refuses_held:
            job.held_since = None
            self._refuse(job, retry_seconds)
            return
        job.forced, job.held = True, False
        self._figures.forced += 1
        self._arrive(job)

    def _plan_look(self) -> None:
        """Look at held steps again and again while there are some."""
        if self._gate is not None and self._placement.held and not self._looks:
            self._looks = True
            self._clock.at(self._clock.now + self._gate.look_seconds, self._look_at_held)

    def _look_at_held(self) -> None:
        self._looks = False
        if self._gate is not None:
            self._gate.look(self._clock.now, any_held=self._placement.held > 0)
        self._admit_waiting(looks=True)
        self._plan_look()

    def _time_out(self, job: Job, ticket: object) -> None:
        if job.ticket is ticket:
            self._refuse(job, self._placement.give_up(job, self._clock.now))

    def _refuse(self, job: Job, retry_seconds: float) -> None:
        self._figures.refusals += 1
        self._away += 1
        self._clock.at(self._clock.now + retry_seconds, partial(self._arrive_again, job))

    def _arrive_again(self, job: Job) -> None:
        self._away -= 1
        self._arrive(job)

    def _home(self, job: Job) -> Home:
        """Return the owner of the job's session, and how many of the job's tokens it has cached."""
        owner = self._lives[job.session].owner
        if not owner:
            return NO_HOME
        cache = self.workers[owner].cache
        return Home(owner, min(cache.cached_tokens(job.session), job.kept_tokens), cache.warm_tokens(job))

    def _give(self, job: Job) -> None:
        """Have the job's worker run it. What another worker had of the session is dropped there."""
        now, life = self._clock.now, self._lives[job.session]
        if life.owner and life.owner != job.worker:
            self._figures.moves += 1
            self.workers[life.owner].cache.drop(job.session, now)
        life.owner = job.worker
        worker = self.workers[job.worker]
        self._look_at(worker)
        worker.submit(job, now)
        self._plan_wake(worker)

    def _wake(self, worker: SimulatedWorker, planned: float) -> None:
        if self._wakes[worker.worker_id] == planned:
            self._wakes[worker.worker_id] = inf
            self._look_at(worker)
            self._plan_wake(worker)

    def _plan_wake(self, worker: SimulatedWorker) -> None:
        time = worker.next_time()
        if time != self._wakes[worker.worker_id]:
            self._wakes[worker.worker_id] = time
            if time < inf:
                self._clock.at(time, partial(self._wake, worker, time))

    def _look_at(self, worker: SimulatedWorker) -> None:
        """Take the jobs that have ended at the worker, and let those that wait at the gateway have their room."""
        now = self._clock.now
        ended = worker.advance(now)
        for job in ended:
            self._take(job, worker)
        worker.admit(now)
        if not ended:
            return
        for job in ended:
            self._placement.release(job, worker.waiting, now)
        if self._placement.waiting:
            self._clock.at(now, self._admit_waiting)

    def _take(self, job: Job, worker: SimulatedWorker) -> None:
        """Count a job that has ended, and go on with its session. An oracle has to know of the next step before the
        session is parked."""
        self._figures.add(job)
        self._placement.step_ended(job, self._clock.now)
        if self._history is not None:
            self._history.add(job, self._clock.now, self._steps_waiting, self._working_set_tokens)
        life = self._lives[job.session]
        life.context_tokens = job.total_tokens
        life.computed_tokens = job.total_tokens - 1
        returns = self._next_turn(life)
        worker.park(job, self._clock.now)
        if not returns:
            self._end(life)

    def _admit_waiting(self, *, looks: bool = False) -> None:
        while (job := self._placement.admit_next(self._home, self._clock.now, looks=looks)) is not None:
            self._give(job)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A simulation leaves no cycles behind before it ends; to look for them would take a fifth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
