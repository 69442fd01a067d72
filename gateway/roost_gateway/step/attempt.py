"""One attempt at a step: what changes on its way from Begin to Commit."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum

from roost.contract.heads import AttemptRef
from roost.contract.lease import LEASE_TTL_MS, LEASE_TTL_SECONDS
from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.why import KvEviction, Place, Wait
from roost.store.records import Began, Descriptor, Reservation
from roost.store.residency import Residency
from roost.store.service import NOTHING_DONE, Done
from roost.store.working_set import HELD
from roost_gateway.routing.choice import StepNeed, WorkerState
from roost_gateway.step.call import StepCall
from roost_gateway.step.output import Outbox, StepOutput

BUSY_SECONDS = 1.0
"""How long a step avoids a worker that had no room for it."""
MAX_FAULTS = 3
"""After so many workers have failed or been lost on a step it is refused, so that it does not go to all of them."""


class Failure(StrEnum):
    """Why a worker did not finish a step, as far as the way on depends on it."""

    LOST = "lost"  # the stream broke
    BUSY = "busy"  # it drains, is full, or serves another revision
    UNKNOWN_ATTEMPT = "unknown_attempt"  # there is nothing to resume; it may well begin the step
    FAULTY = "faulty"  # it failed on this step


class WorkerFailureError(Exception):
    """A worker did not finish a step, and another one may go on."""

    def __init__(self, failure: Failure, message: str, *, engine_died: bool = False) -> None:
        """`engine_died`: the worker itself says that it lost its engine, and with that all of its sessions."""
        super().__init__(message)
        self.failure = failure
        self.engine_died = engine_died


class StepClock:
    """When things happened in a step, in seconds of `time.monotonic`."""

    def __init__(self, received_at: float) -> None:
        self._received_at = received_at
        self._first_token_at = 0.0
        self.queue_seconds = 0.0

    def output_came(self) -> None:
        if not self._first_token_at:
            self._first_token_at = time.monotonic()

    @contextmanager
    def queueing(self) -> Iterator[None]:
        """Counts the time that the block takes as time in a queue."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.queue_seconds += time.monotonic() - began

    @property
    def first_token_seconds(self) -> float:
        """From the gateway's receipt to the first output; 0 without output."""
        return max(0.0, self._first_token_at - self._received_at) if self._first_token_at else 0.0

    @property
    def total_seconds(self) -> float:
        return time.monotonic() - self._received_at


class StepAttempt:
    """One attempt at a step, from Begin to Commit. It holds everything that changes on the way, and only its methods
    change it. It belongs to the task that drives it."""

    def __init__(self, call: StepCall, began: Began, outbox: Outbox) -> None:
        """The task that calls this drives the attempt."""
        task = asyncio.current_task()
        assert task is not None, "an attempt is driven by a task"
        self._task = task
        self.call = call
        self.began = began
        self.outbox = outbox
        self.output = StepOutput(began.ref, call.request.received)
        self.clock = StepClock(call.received_at)
        self.need = self._need(began.descriptor.bound_revision)
        self.registered = not began.reserved and bool(began.cached_tokens or began.fenced)
        """Whether it may be among the store's waiters: Begin puts it there when the worker that it prefers is full."""
        self.is_gated = began.gated
        """Whether its session is not live, so that it has to pass the gate."""
        self.has_passed_gate = False
        """Whether it has been held for as long as it may be."""
        self.has_lost_log = False
        """Whether its session was live, and too much of the log was evicted while it waited."""
        self.model_revision = ""
        """Of the worker that it was sent to last."""
        self.place = Place.NO_HOME
        """Where that is, seen from the session's home."""
        self.home_eviction: KvEviction | None = None
        """What its home has dropped of the session, once that has answered."""
        self.wait: Wait | None = None
        """How it stood when it first began to wait for a worker; None while it has not."""
        self.failovers = 0
        self.committing = False
        """The output is complete: from here on only Commit can tell whether the attempt is fenced."""
        self.fenced = False
        """A newer attempt has taken the step over."""
        self.began_at = time.monotonic()
        self._asked_at: float | None = None
        self._waits_since: float | None = None
        """Since when it has waited in lines; None while it is in none."""
        self._lost_tokens = 0
        """Of the log, as the store has yet to hear."""
        self._busy: dict[str, float] = {}
        self._faulty: dict[str, float] = {}
        """Until when each worker is avoided, because it had no room or because it failed on the step."""
        self._faults = 0

    @property
    def pool(self) -> PoolDocument:
        return self.call.pool

    @property
    def session_id(self) -> str:
        return self.call.request.session_id

    @property
    def ref(self) -> AttemptRef:
        return self.began.ref

    @property
    def descriptor(self) -> Descriptor:
        return self.began.descriptor

    @property
    def continuation(self) -> bool:
        """Whether the session has a log already."""
        return self.descriptor.head.length > 0

    @property
    def priority(self) -> int:
        return self.call.priority(continuation=self.continuation)

    @property
    def done(self) -> Done:
        """What a worker has computed so far. A prompt that was accepted counts as if it had an output."""
        output = self.output
        return Done(len(output.prompt_ids), max(1, len(output.ids))) if output.accepted else NOTHING_DONE

    @property
    def has_begun(self) -> bool:
        """Whether a worker has accepted it; it then waits until its deadline."""
        return self.output.accepted

    @property
    def keeps_place(self) -> bool:
        """Whether no full queue refuses it: a worker has accepted it, or it has waited in the queue already."""
        return self.has_begun or self.has_passed_gate or self.has_lost_log

    @property
    def may_lose_log(self) -> bool:
        """Whether it passes the gate since its session is live, and no worker has had it yet. A log that is rendered
        again for another revision loses nothing; and it goes back to the gate once at most."""
        passes = self.pool.has_gate and not (self.is_gated or self.has_passed_gate or self.has_lost_log)
        is_same_log = self.continuation and self.need.model_revision == self.descriptor.bound_revision
        return passes and is_same_log and not self.has_begun

    def _need(self, revision: str) -> StepNeed:
        began, descriptor, log_tokens = self.began, self.descriptor, self.descriptor.head.length
        cached = min(began.cached_tokens, log_tokens)
        warm = min(began.warm_tokens, log_tokens - cached)
        return StepNeed(
            session_id=descriptor.session_id,
            model_revision=revision or self.pool.active_revision,
            log_tokens=log_tokens,
            new_tokens=self.call.new_tokens(log_tokens),
            cached={descriptor.owner: cached} if cached else {},
            warm={descriptor.owner: warm} if warm else {},
            owner=descriptor.owner,
            prefix_tokens=self.call.entry().prefix_tokens,
        )

    # Migration before the step

    def migrates_to(self, pool: PoolDocument) -> None:
        """Requires a worker of `pool`'s active revision. `pool` is the document read just now."""
        self.call = replace(self.call, pool=pool)
        self.need = self._need(pool.active_revision)

    def migrated(self, descriptor: Descriptor, worker_id: str) -> None:
        """Moves it to the session's new generation; its tokens are reserved at a worker."""
        self.began = replace(
            self.began, descriptor=descriptor, reserved=worker_id, fenced=None, cached_tokens=0, warm_tokens=0
        )
        self.need = self._need(descriptor.bound_revision)

    # Asking for a worker

    def reservation(self, worker_id: str = "", tokens: int = 0) -> Reservation:
        """What to reserve at a worker; without a worker, the place among the waiters to give up."""
        return Reservation(
            pool=self.pool.pool,
            session_id=self.session_id,
            ref=self.ref,
            worker_id=worker_id,
            tokens=tokens,
            priority=self.priority,
            deadline_ms=self.call.milliseconds_left,
            lease_ms=LEASE_TTL_MS,
            revision=self.need.model_revision,
            entry=self.call.entry(passed=not self.is_gated),
            waited_ms=0 if self._waits_since is None else int((time.monotonic() - self._waits_since) * 1000),
            lost_tokens=self._lost_tokens,
        )

    @property
    def line(self) -> str:
        """Name of the line in which it waits."""
        return (HELD if self.is_gated else "") + self.need.model_revision

    def asked(self, *, granted: bool) -> None:
        """Notes that the store was asked for room, and gave it, or else a place among its waiters."""
        self.registered, self._asked_at, self._lost_tokens = not granted, time.monotonic(), 0
        if granted:
            self.is_gated, self._waits_since = False, None  # its session is live now

    def enters_line(self, since: float) -> None:
        """Notes that it waits in a line, and has waited since then."""
        self._waits_since = since

    def lost_log(self, tokens: int) -> None:
        """Notes that its session is not live any more, since `tokens` of the log were evicted while it waited."""
        self.is_gated = self.has_lost_log = True
        self._lost_tokens = tokens

    def asks_again(self) -> None:
        """Lets it ask the store at the next opportunity."""
        self._asked_at = None

    def passes_gate(self) -> None:
        """Notes that it has been held for as long as it may be, and waits for room only."""
        self.is_gated, self.has_passed_gate = False, True

    def asked_within(self, seconds: float) -> bool:
        return self._asked_at is not None and time.monotonic() < self._asked_at + seconds

    def waits(self, wait: Wait) -> None:
        """Notes that it waits for a worker."""
        self.wait = self.wait or wait

    def withdrawn(self) -> None:
        """Notes that its place among the store's waiters was given up."""
        self.registered = False

    def cached_at(self, residency: Residency) -> None:
        """Corrects how much of the log a worker has cached, if it was thought to have some."""
        need, worker_id = self.need, residency.worker_id
        if worker_id in need.cached or worker_id in need.warm:
            cached = min(residency.cached_tokens, need.log_tokens)
            warm = min(residency.warm_tokens, need.log_tokens - cached)
            self.need = replace(need, cached={**need.cached, worker_id: cached}, warm={**need.warm, worker_id: warm})

    # Failures of workers

    def failed_at(self, worker_id: str, failure: Failure, *, is_fault: bool) -> None:
        """Avoids a worker that was busy for a moment, and a worker that failed on the step for one lease.

        Raises Refused: WORKER_FAILED, which gives the step up, when too many workers were at fault.
        """
        if failure is Failure.BUSY:
            self._busy[worker_id] = time.monotonic() + BUSY_SECONDS
        elif failure is Failure.FAULTY:
            self._faulty[worker_id] = time.monotonic() + LEASE_TTL_SECONDS
        self._faults += is_fault
        if self._faults >= MAX_FAULTS:
            raise self.given_up()

    def given_up(self) -> Refused:
        """The refusal when no worker is left that may do better: WORKER_FAILED. Its retry is when the first of them may
        be tried again."""
        now = time.monotonic()
        until = min((end for end in self._faulty.values() if end > now), default=now + LEASE_TTL_SECONDS)
        message = "the pool's workers failed on this step; their logs have the cause"
        return Refused(Reason.WORKER_FAILED, message, retry_seconds=until - now)

    @property
    def avoids_any(self) -> bool:
        return bool(self._busy or self._faulty)

    def faulty(self) -> frozenset[str]:
        """Ids of the workers that it avoids now because they failed on it."""
        return _in_force(self._faulty)

    def excluded(self) -> frozenset[str]:
        """Ids of all workers that it avoids now."""
        return _in_force(self._busy) | _in_force(self._faulty)

    def fails_over(self) -> None:
        """Notes that another worker goes on with its output."""
        self.failovers += 1

    # Work at a worker

    def goes_to(self, worker: WorkerState, place: Place) -> None:
        self.model_revision = self.need.model_revision or worker.model_revision
        self.place = place

    def home_dropped(self, eviction: KvEviction) -> None:
        """Notes what its home has dropped of the session."""
        self.home_eviction = eviction

    def output_came(self) -> None:
        """Notes that the output has grown."""
        self.clock.output_came()
        self.outbox.more()

    def accepted(self) -> None:
        """Notes that a worker has begun; from now on only workers of the same revision can go on."""
        self.need = replace(self.need, model_revision=self.model_revision)

    def commits(self) -> None:
        self.committing = True

    def fence(self) -> None:
        """Ends the task that drives it, because a newer attempt has taken the step over."""
        self.fenced = True
        self._task.cancel()


def _in_force(avoided: Mapping[str, float]) -> frozenset[str]:
    now = time.monotonic()
    return frozenset(worker for worker, until in avoided.items() if until > now)
