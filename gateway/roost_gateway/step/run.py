"""The way of a step: Begin, reserve, Generate, Commit (ARCHITECTURE.md), and what happens when something dies."""

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from dataclasses import dataclass, replace
from typing import Any as Parts

from roost.contract.pool_document import PoolDocument, PoolRole
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.fault_points import fault_point
from roost.store.records import (
    AlreadyCommitted,
    Began,
    BeginRequest,
    LogEntry,
    StoreUnavailableError,
)
from roost.v1 import session_service_pb2 as pb
from roost.v1.worker_service_pb2 import Finished
from roost_gateway.admission import estimate
from roost_gateway.admission.admission_queue import step_class
from roost_gateway.convert import head_from_proto, head_to_proto
from roost_gateway.routing.choice import StepNeed
from roost_gateway.routing.revisions import announcement, bound_revision, migrated_event
from roost_gateway.step import migration
from roost_gateway.step.attempts import LEASE_MS, HeldAttempt
from roost_gateway.step.committing import StepClock, commit
from roost_gateway.step.lines import Ask
from roost_gateway.step.outbox import Outbox
from roost_gateway.step.relay import Relay
from roost_gateway.step.replay import committed_event, replay
from roost_gateway.step.result import commit_request
from roost_gateway.telemetry import StepFigures

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepCall:
    """One Step call, checked. `deadline` is a time of `time.monotonic`."""

    request: pb.StepRequest
    tenant: str
    pool: PoolDocument
    role: PoolRole
    facts: estimate.SessionFacts
    received_at: float
    deadline: float


class StepRun:
    """Takes one attempt at a step, from Begin to Committed, in a task of its own."""

    def __init__(self, parts: Parts, call: StepCall, outbox: Outbox) -> None:
        self._parts = parts
        self._call = call
        self._outbox = outbox
        self._relay: Relay | None = None
        self.committing = False
        """From Finished on a client that goes changes nothing: the step is committed."""

    async def run(self) -> None:
        """Raises Refused, StoreUnavailableError."""
        fault_point("gateway.step.received")
        prompt = self._prompt_estimate()
        began = await self._begin(prompt)
        fault_point("gateway.begin.done")
        if isinstance(began, AlreadyCommitted):
            received = self._call.request.received if self._call.request.HasField("received") else None
            replay(began, received, self._outbox)
            return
        self._parts.telemetry.name_step(self._call.request.session_id, began.descriptor.model)
        queue = self._parts.placement.queue(self._call.pool.pool)
        with self._parts.attempts.hold(self._call.pool.pool, self._call.request.session_id, began.ref) as held:
            queue.started(self._call.tenant)
            try:
                await self._drive(began, held, prompt)
            except BaseException as error:
                self._clean_up(held, error)
                if held.fenced and isinstance(error, asyncio.CancelledError):
                    raise _fenced() from None
                raise
            finally:
                queue.ended(self._call.tenant)

    async def _begin(self, prompt: int) -> Began | AlreadyCommitted:
        """Whoever goes meanwhile leaves no attempt behind: it is ended as soon as it is known."""
        begin = asyncio.ensure_future(self._parts.store.begin(self._begin_request(prompt)))
        try:
            return await asyncio.shield(begin)
        except asyncio.CancelledError:
            self._parts.background.spawn(self._undo(begin))
            raise

    async def _undo(self, begin: "asyncio.Future[Began | AlreadyCommitted]") -> None:
        with contextlib.suppress(Refused, StoreUnavailableError):
            began = await begin
            if isinstance(began, Began) and not self._parts.closing:
                await self._parts.store.abort(self._call.request.session_id, began.ref)

    async def _drive(self, began: Began, held: HeldAttempt, prompt: int) -> None:
        clock = StepClock(self._call.received_at, self._call.deadline)
        began = await self._in_tokens_of_the_pool(began, held, prompt, clock)
        ask, limit = self._ask(began, held, prompt), self._output_limit(began, prompt)
        self._relay = Relay(self._parts, self._call.request, began, ask, self._outbox, clock, limit)
        finished, worker = await self._relay.generate()
        fault_point("gateway.finished")
        self.committing = held.committing = True
        await self._commit(began, finished, worker, clock)

    async def _in_tokens_of_the_pool(self, began: Began, held: HeldAttempt, prompt: int, clock: StepClock) -> Began:
        """Migrates the session if its pool's model has changed, and tells its client."""
        fresh = await migration.due(self._parts, self._call.pool, began)
        if fresh is None:
            request = self._call.request
            event = announcement(began.descriptor, request.expected_head if request.HasField("expected_head") else None)
        else:
            self._call = replace(self._call, pool=fresh)
            ask = self._ask(began, held, prompt, fresh.active_revision)
            began = await migration.Migration(self._parts, ask, self._outbox, clock).run(began)
            event = migrated_event(began.descriptor)
        if event is not None:
            self._outbox.migrated(event)
        return began

    async def _commit(self, began: Began, finished: Finished, worker_id: str, clock: StepClock) -> None:
        relay = self._relay
        assert relay is not None, "a step is generated before it is committed"
        assert relay.generation is not None
        request = commit_request(
            self._call.request,
            began,
            relay.output,
            finished,
            lineage=relay.lineage,
            worker_id=worker_id,
            model_revision=relay.model_revision,
            ttl_ms=self._call.pool.idle_ttl_ms,
        )
        entry = await commit(self._parts.store, request, clock.deadline)
        fault_point("gateway.commit.done")
        self._parts.facts.continues(self._call.request.session_id, self._call.tenant)
        head = head_to_proto(entry.head, began.descriptor.generation)
        self._parts.background.spawn(relay.generation.commit(head))
        self._tell(began, entry, relay, clock)
        await asyncio.sleep(0)  # Committed is on its way before the figures are written
        self._record(began, entry, relay, clock)

    def _tell(self, began: Began, entry: LogEntry, relay: Relay, clock: StepClock) -> None:
        event = committed_event(
            entry,
            began.descriptor.generation,
            queue_ms=int(clock.queue_seconds * 1000),
            first_token_ms=int(clock.first_token_seconds * 1000),
            failovers=relay.failovers,
        )
        self._outbox.committed(event, relay.output)

    def _record(self, began: Began, entry: LogEntry, relay: Relay, clock: StepClock) -> None:
        self._parts.telemetry.committed(
            StepFigures(
                model=began.descriptor.model,
                prompt_tokens=entry.prompt_tokens,
                output_tokens=entry.output_tokens,
                cached_tokens=entry.cached_tokens,
                queue_seconds=clock.queue_seconds,
                first_token_seconds=clock.first_token_seconds,
                total_seconds=time.monotonic() - clock.received_at,
                failovers=relay.failovers,
            )
        )

    def _begin_request(self, prompt: int) -> BeginRequest:
        call, request = self._call, self._call.request
        head = head_from_proto(request.expected_head) if request.HasField("expected_head") else None
        wanted = estimate.max_output_tokens(request, call.pool, call.role)
        log_tokens = head.length if head else 0
        new = estimate.new_tokens(prompt, wanted, log_tokens, call.pool.token_limit)
        return BeginRequest(
            session_id=request.session_id,
            tenant=call.tenant,
            step_id=request.step_id,
            digest=content_digest(request),
            expected_head=head,
            nonce=secrets.token_bytes(16),
            seed=request.sampling.seed if request.sampling.HasField("seed") else secrets.randbits(63),
            lease_ms=LEASE_MS,
            new_tokens=new,
            max_session_tokens=estimate.lenient(call.pool.token_limit, new),
            budget_tokens=estimate.lenient(call.role.budget_tokens, new),
            max_steps=call.role.max_steps,
            priority=self._class(log_tokens > 0 or call.facts.continues),
            deadline_ms=max(1, int((call.deadline - time.monotonic()) * 1000)),
            grace=self._parts.workers.grace,
            expected_generation=request.expected_head.generation,
            migrates_to=call.pool.active_revision if call.pool.migrates else "",
        )

    def _ask(self, began: Began, held: HeldAttempt, prompt: int, revision: str = "") -> Ask:
        """`revision` replaces that of the session."""
        descriptor, call = began.descriptor, self._call
        wanted = estimate.max_output_tokens(call.request, call.pool, call.role)
        log_tokens = descriptor.head.length
        need = StepNeed(
            session_id=descriptor.session_id,
            model_revision=revision or bound_revision(descriptor) or call.pool.active_revision,
            log_tokens=log_tokens,
            new_tokens=estimate.new_tokens(prompt, wanted, log_tokens, call.pool.token_limit),
            cached={descriptor.owner: min(began.cached_tokens, log_tokens)} if began.cached_tokens else {},
            owner=descriptor.owner,
        )
        continuation = log_tokens > 0
        return Ask(
            pool=call.pool,
            held=held,
            need=need,
            tenant=call.tenant,
            priority=self._class(continuation),
            continuation=continuation,
            deadline=call.deadline,
            registered=not began.reserved and bool(began.cached_tokens or began.fenced),
        )

    def _output_limit(self, began: Began, prompt: int) -> int:
        call, descriptor = self._call, began.descriptor
        limits = [
            limit - used
            for limit, used in (
                (call.role.budget_tokens, descriptor.prompt_tokens + descriptor.output_tokens),
                (call.pool.max_session_tokens, descriptor.head.length),
            )
            if limit
        ]
        wanted = estimate.max_output_tokens(call.request, call.pool, call.role)
        return estimate.clipped_output(wanted, prompt, min(limits, default=None))

    def _class(self, continuation: bool) -> int:
        return step_class(self._call.role.priority, self._call.pool.priorities, continuation=continuation)

    def _prompt_estimate(self) -> int:
        worker = self._parts.workers.any(self._call.pool.pool)
        per_token = worker.bytes_per_token if worker else estimate.DEFAULT_BYTES_PER_TOKEN
        return estimate.prompt_tokens(self._call.request, self._call.facts, per_token)

    def _clean_up(self, held: HeldAttempt, error: BaseException) -> None:
        """Frees what the attempt holds, unless somebody goes on with it: who fenced it, or resumes it later."""
        generation = self._relay.generation if self._relay is not None else None
        if held.fenced or self._parts.closing or _goes_on(error) or (self.committing and _is_cancel(error)):
            if generation is not None:
                generation.leave()
            return
        if generation is not None:
            self._parts.background.spawn(generation.cancel())
        self._parts.background.spawn(self._abort(held))

    async def _abort(self, held: HeldAttempt) -> None:
        try:
            await self._parts.store.abort(held.session_id, held.ref)
        except StoreUnavailableError:
            log.info("an attempt of %s could not be ended; its lease will", held.session_id)


def content_digest(request: pb.StepRequest) -> bytes:
    """16-byte hash of what makes a step: messages, sampling and format, but not what a retry may change."""
    content = pb.StepRequest(
        messages=request.messages,
        sampling=request.sampling if request.HasField("sampling") else None,
        format=request.format if request.HasField("format") else None,
    )
    return hashlib.blake2b(content.SerializeToString(deterministic=True), digest_size=16, person=b"roost.step").digest()


def _goes_on(error: BaseException) -> bool:
    """Whether another attempt has the step now, or will resume it because its commit is in doubt."""
    return isinstance(error, Refused) and error.reason in (Reason.ATTEMPT_FENCED, Reason.COMMIT_UNKNOWN)


def _is_cancel(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError)


def _fenced() -> Refused:
    return Refused(Reason.ATTEMPT_FENCED, "a newer attempt has taken this step over")
