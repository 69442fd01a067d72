"""One attempt at a step: the call that it answers, and how far it has come from Begin to Commit."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from roost.contract.heads import AttemptRef
from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.pool_document import PoolDocument, PoolRole
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.steps import StepRequest
from roost.store.records import Began, BeginRequest, Descriptor, Reservation
from roost_gateway.admission import estimate
from roost_gateway.admission.admission_queue import step_class
from roost_gateway.routing.choice import StepNeed
from roost_gateway.routing.revisions import bound_revision
from roost_gateway.step.output import Outbox, StepOutput
from roost_gateway.stored_values import content_digest

LEASE_MS = int(LEASE_TTL_SECONDS * 1000)
MAX_FAULTS = 3
"""Workers that may fail on a step, or be lost while they work on it, before the step is taken to be at fault: one that
kills its worker must not kill them all."""


@dataclass(frozen=True, slots=True)
class StepCall:
    """One Step call, checked. Times are seconds of `time.monotonic`."""

    request: StepRequest
    tenant: str
    pool: PoolDocument
    role: PoolRole
    facts: estimate.SessionFacts
    received_at: float
    deadline: float

    @property
    def milliseconds_left(self) -> int:
        return max(1, int((self.deadline - time.monotonic()) * 1000))

    def prompt_estimate(self, bytes_per_token: float) -> int:
        """Tokens of the rendered prompt, before anybody has rendered it."""
        return estimate.prompt_tokens(self.request, self.facts, bytes_per_token)

    def new_tokens(self, prompt: int, log: int) -> int:
        """Estimate of the most tokens that the step adds to a log of `log` tokens."""
        return estimate.new_tokens(prompt, self.wanted_output, log, self.pool.token_limit)

    @property
    def wanted_output(self) -> int:
        return estimate.max_output_tokens(self.request, self.pool, self.role)

    def priority(self, *, continuation: bool) -> int:
        return step_class(self.role.priority, self.pool.priorities, continuation=continuation)

    def begin_request(self, prompt: int) -> BeginRequest:
        """What Begin is asked, with the estimate of the prompt."""
        request, head = self.request, self.request.expected_head
        log_tokens = head.length if head else 0
        new = self.new_tokens(prompt, log_tokens)
        seed = request.sampling.seed
        return BeginRequest(
            session_id=request.session_id,
            tenant=self.tenant,
            step_id=request.step_id,
            digest=content_digest(request),
            expected_head=head,
            nonce=secrets.token_bytes(16),
            seed=secrets.randbits(63) if seed is None else seed,
            lease_ms=LEASE_MS,
            new_tokens=new,
            max_session_tokens=estimate.lenient(self.pool.token_limit, new),
            budget_tokens=estimate.lenient(self.role.budget_tokens, new),
            max_steps=self.role.max_steps,
            priority=self.priority(continuation=log_tokens > 0 or self.facts.continues),
            deadline_ms=self.milliseconds_left,
            expected_generation=head.generation if head else 0,
            migrates_to=self.pool.active_revision if self.pool.migrates else "",
        )


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
        """What the block takes is time in a queue."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.queue_seconds += time.monotonic() - began

    @property
    def first_token_seconds(self) -> float:
        """From the gateway's receipt to the first output; 0 before it came."""
        return max(0.0, self._first_token_at - self._received_at) if self._first_token_at else 0.0

    @property
    def total_seconds(self) -> float:
        return time.monotonic() - self._received_at


class StepAttempt:
    """One attempt at a step, from Begin to Commit. Everything that changes on the way is here, and only the methods
    below change it. It belongs to the task that drives it."""

    def __init__(self, call: StepCall, began: Began, outbox: Outbox, prompt: int) -> None:
        """`prompt` is the estimate of the prompt's tokens. The task that calls this drives the attempt."""
        task = asyncio.current_task()
        assert task is not None, "an attempt is driven by a task"
        self._task = task
        self._prompt = prompt
        self.call = call
        self.began = began
        self.outbox = outbox
        self.output = StepOutput(began.ref, call.request.received)
        self.clock = StepClock(call.received_at)
        self.need = self._need(bound_revision(began.descriptor))
        self.registered = not began.reserved and bool(began.cached_tokens or began.fenced)
        """Whether it may be among the store's waiters: Begin puts it there when the worker that it prefers is full."""
        self.model_revision = ""
        """Of the worker that it was sent to last."""
        self.failovers = 0
        self.committing = False
        """The output is complete: from here on only Commit can tell whether the attempt is fenced."""
        self.fenced = False
        """A newer attempt has taken the step over."""
        self._asked_at: float | None = None
        self._avoided: dict[str, float] = {}
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
        return self.descriptor.head.length > 0

    @property
    def priority(self) -> int:
        return self.call.priority(continuation=self.continuation)

    @property
    def has_begun(self) -> bool:
        """Whether a worker has accepted it: then it waits until its deadline, and no full queue refuses it."""
        return self.output.accepted

    @property
    def output_limit(self) -> int:
        """Most tokens to generate: what was asked for, cut to what the budget and the session's length leave."""
        limits = [
            limit - used
            for limit, used in (
                (self.call.role.budget_tokens, self.descriptor.prompt_tokens + self.descriptor.output_tokens),
                (self.pool.max_session_tokens, self.descriptor.head.length),
            )
            if limit
        ]
        return estimate.clipped_output(self.call.wanted_output, self._prompt, min(limits, default=None))

    def _need(self, revision: str) -> StepNeed:
        began, descriptor, log_tokens = self.began, self.descriptor, self.descriptor.head.length
        return StepNeed(
            session_id=descriptor.session_id,
            model_revision=revision or self.pool.active_revision,
            log_tokens=log_tokens,
            new_tokens=self.call.new_tokens(self._prompt, log_tokens),
            cached={descriptor.owner: min(began.cached_tokens, log_tokens)} if began.cached_tokens else {},
            owner=descriptor.owner,
        )

    # Its session migrates before the step.

    def migrates_to(self, pool: PoolDocument) -> None:
        """From now on it needs a worker of the active revision of `pool`, which is its pool as read just now."""
        self.call = replace(self.call, pool=pool)
        self.need = self._need(pool.active_revision)

    def migrated(self, descriptor: Descriptor, worker_id: str) -> None:
        """Goes on in the session's new generation, with its tokens reserved at a worker."""
        self.began = replace(self.began, descriptor=descriptor, reserved=worker_id, fenced=None, cached_tokens=0)
        self.need = self._need(bound_revision(descriptor))

    # It asks for a worker.

    def reservation(self, worker_id: str = "", tokens: int = 0) -> Reservation:
        """What to reserve at a worker; without one, what to give up."""
        return Reservation(
            pool=self.pool.pool,
            session_id=self.session_id,
            ref=self.ref,
            worker_id=worker_id,
            tokens=tokens,
            priority=self.priority,
            deadline_ms=self.call.milliseconds_left,
            lease_ms=LEASE_MS,
            revision=self.need.model_revision,
        )

    def asked(self, *, granted: bool) -> None:
        """The store was asked for room just now; where there was none, it keeps a place among its waiters."""
        self.registered, self._asked_at = not granted, time.monotonic()

    def asked_within(self, seconds: float) -> bool:
        return self._asked_at is not None and time.monotonic() < self._asked_at + seconds

    def withdrawn(self) -> None:
        """Its place among the store's waiters was given up."""
        self.registered = False

    def cached_at(self, worker_id: str, tokens: int) -> None:
        """A worker that was thought to have some of the log cached has `tokens` of it."""
        if worker_id in self.need.cached:
            cached = {**self.need.cached, worker_id: min(tokens, self.need.log_tokens)}
            self.need = replace(self.need, cached=cached)

    # Workers fail.

    def avoid(self, worker_id: str, seconds: float | None = None) -> None:
        """Avoids a worker for a while, or until the step's deadline."""
        self._avoided[worker_id] = self.call.deadline if seconds is None else time.monotonic() + seconds

    @property
    def avoids_any(self) -> bool:
        return bool(self._avoided)

    def excluded(self) -> frozenset[str]:
        """Ids of the workers that it avoids now."""
        now = time.monotonic()
        return frozenset(worker for worker, until in self._avoided.items() if until > now)

    def count_fault(self) -> None:
        """A worker failed on the step. Raises Refused: INTERNAL when the step is given up."""
        self._faults += 1
        if self._faults >= MAX_FAULTS:
            raise Refused(Reason.INTERNAL, f"{self._faults} workers failed on this step; their logs have the cause")

    def fails_over(self) -> None:
        self.failovers += 1

    # A worker works on it.

    def sent_to(self, revision: str) -> None:
        """It was sent to a worker of a revision."""
        self.model_revision = self.need.model_revision or revision

    def accepted(self) -> None:
        """The worker has begun: only one of the same revision can go on."""
        self.need = replace(self.need, model_revision=self.model_revision)

    def commits(self) -> None:
        self.committing = True

    def fence(self) -> None:
        """A newer attempt has taken the step over: ends the task that drives this one."""
        self.fenced = True
        self._task.cancel()
