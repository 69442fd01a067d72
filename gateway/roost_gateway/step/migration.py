"""A session's way to another revision of its pool's model (ARCHITECTURE.md, "A changed model").

It goes under the attempt of the step that finds the model changed: until the one script that writes the new generation
nothing is written, so that whoever dies on the way leaves the old generation as it was.
"""

import logging
import time
from dataclasses import replace

import grpc
import grpc.aio

from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.fault_points import fault_point
from roost.store.records import Began, Descriptor, LogEntry, MigrateRequest
from roost.store.rules import ID_BYTES
from roost.v1.worker_service_pb2 import StepTokens
from roost_gateway.core.parts import Parts
from roost_gateway.routing.choice import WorkerState
from roost_gateway.routing.revisions import migrates
from roost_gateway.step.committing import StepClock
from roost_gateway.step.lines import Ask
from roost_gateway.step.migrated_log import migrate_request, pieces, render_request
from roost_gateway.step.outbox import Outbox
from roost_gateway.step.relay import BUSY_SECONDS, MAX_FAULTS, poisonous
from roost_gateway.step.worker_stream import Failure, WorkerFailureError, classify

log = logging.getLogger(__name__)

_ENTRIES = 32


async def due(parts: Parts, pool: PoolDocument, began: Began) -> PoolDocument | None:
    """The pool, read anew, when the session is to migrate before its step; else None.

    A step whose output may still be had from a worker of the old revision is ended there. Raises Refused:
    POOL_NOT_FOUND; StoreUnavailableError.
    """
    if not migrates(pool, began.descriptor):
        return None
    fresh = await parts.workers.reread(pool.pool)  # one read long ago would take the session back to an old revision
    if not migrates(fresh, began.descriptor) or await _has_output(parts, began):
        return None
    return fresh


async def _has_output(parts: Parts, began: Began) -> bool:
    fenced, descriptor = began.fenced, began.descriptor
    if fenced is None or not fenced.worker_id:
        return False
    worker = await parts.workers.find(descriptor.pool, fenced.worker_id)
    return worker is not None and worker.model_revision == descriptor.model_revision


class Migration:
    """Gives a session a new generation, at a worker on which `ask`, which is of the pool's revision, is reserved."""

    def __init__(self, parts: Parts, ask: Ask, outbox: Outbox, clock: StepClock) -> None:
        self._parts = parts
        self._ask = ask
        self._outbox = outbox
        self._clock = clock
        self._faults = 0

    async def run(self, began: Began) -> Began:
        """The attempt in its new generation. Raises Refused, StoreUnavailableError."""
        fault_point("gateway.migration.begun")
        entries = await self._entries(began.descriptor)
        worker = self._reserved(began.reserved)
        while True:
            worker = worker or await self._place()
            try:
                request = await self._rendered(worker, began, entries)
                break
            except WorkerFailureError as failure:
                log.info(
                    "session %s was not rendered at %s: %s", began.descriptor.session_id, worker.worker_id, failure
                )
                self._avoid(worker, failure)
                worker = None
        fault_point("gateway.rendered")
        descriptor = await self._parts.store.migrate(request)
        fault_point("gateway.migrated")
        self._parts.telemetry.migrated(descriptor.model_revision, descriptor.head.length)
        self._evict(began.descriptor, began.ref.epoch)
        return replace(began, descriptor=descriptor, reserved=worker.worker_id, fenced=None, cached_tokens=0)

    async def _entries(self, descriptor: Descriptor) -> list[LogEntry]:
        entries: list[LogEntry] = []
        while len(entries) < descriptor.steps:
            page = await self._parts.store.log(descriptor.session_id, descriptor.generation, len(entries), _ENTRIES)
            if not page:
                raise Refused(Reason.SESSION_NOT_FOUND, "the session has been erased")
            entries += page
        return entries

    def _reserved(self, worker_id: str) -> WorkerState | None:
        """The worker that an earlier attempt had reserved for the same purpose."""
        worker = self._parts.workers.get(self._ask.pool.pool, worker_id) if worker_id else None
        return worker if worker is not None and worker.model_revision == self._revision else None

    @property
    def _revision(self) -> str:
        return self._ask.need.model_revision

    async def _place(self) -> WorkerState:
        with self._clock.queueing():
            return await self._parts.placement.place(self._ask, self._outbox.queued)

    async def _rendered(self, worker: WorkerState, began: Began, entries: list[LogEntry]) -> MigrateRequest:
        pool = self._ask.pool
        tokens = await self._render(worker, began.descriptor, entries)
        try:
            request = migrate_request(began, entries, tokens, self._revision, pool.idle_ttl_ms)
        except ValueError as error:
            raise WorkerFailureError(Failure.FAULTY, str(error)) from error
        length = len(request.packed_ids) // ID_BYTES
        if pool.token_limit and length >= pool.token_limit:
            raise _too_long(self._revision, length, pool.token_limit)
        return request

    async def _render(self, worker: WorkerState, descriptor: Descriptor, entries: list[LogEntry]) -> list[StepTokens]:
        stub, tokens = self._parts.clients.channel(worker.address).stub, list[StepTokens]()
        for piece in pieces(entries):
            try:
                response = await stub.Render(
                    render_request(descriptor, self._revision, piece, tokens),
                    metadata=self._parts.clients.metadata(descriptor.pool),
                    timeout=self._clock.milliseconds_left / 1000,
                )
            except grpc.aio.AioRpcError as error:
                raise self._failure(error) from error
            tokens += response.steps
        return tokens

    def _failure(self, error: grpc.aio.AioRpcError) -> Exception:
        failure = classify(error)
        if isinstance(failure, Refused) and failure.reason is Reason.INVALID_REQUEST:
            return _cannot_be_shown(self._revision, failure.message)
        return failure

    def _avoid(self, worker: WorkerState, failure: WorkerFailureError) -> None:
        if failure.failure is Failure.BUSY:
            self._ask.avoid[worker.worker_id] = time.monotonic() + BUSY_SECONDS
            return
        if failure.failure is Failure.LOST:
            self._parts.workers.mark_broken(worker)
            self._parts.clients.forget(self._parts.clients.channel(worker.address))
        else:
            self._ask.avoid[worker.worker_id] = self._clock.deadline
        self._faults += 1
        if self._faults >= MAX_FAULTS:
            raise poisonous(self._faults)

    def _evict(self, former: Descriptor, epoch: int) -> None:
        """Nobody asks for the old generation's KV again."""
        states = self._parts.workers.states(former.pool)
        old = [worker for worker in states if worker.model_revision == former.model_revision]
        if old:
            self._parts.background.spawn(self._parts.clients.evict(former.pool, old, former.session_id, epoch))


def _too_long(revision: str, length: int, limit: int) -> Refused:
    return Refused(
        Reason.STEP_TOO_LONG,
        f"rendered for the pool's new revision {revision} the log has {length} tokens, and a session holds {limit}; "
        "open another session, or raise sessions.maxTokens",
        metadata={"log_tokens": str(length), "limit_tokens": str(limit)},
    )


def _cannot_be_shown(revision: str, why: str) -> Refused:
    return Refused(
        Reason.MODEL_REVISION_MISMATCH,
        f"the log cannot be rendered for the pool's new revision {revision}: {why}; open another session",
    )
