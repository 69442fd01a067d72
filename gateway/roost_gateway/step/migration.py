"""A session's way to another log: of another revision of its pool's model, or without the thinking of earlier turns
(docs/contracts.md, "A changed model").

It is part of the attempt at the step that comes after the change, or that begins another turn. Nothing is written
before the one script that writes the new generation: a gateway or worker that dies on the way leaves the old generation
as it was.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from roost.contract.heads import Head
from roost.contract.lease import LEASE_TTL_MS
from roost.contract.loghash import extend
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.fault_points import fault_point
from roost.store.folding import folded_log, steps_to_fold
from roost.store.interface import SessionStore
from roost.store.records import Descriptor, LogEntry, MigrateRequest
from roost.store.rules import ID_BYTES
from roost.store.views import last_migration, unknown_migration
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.routing.choice import WorkerState
from roost_gateway.routing.revisions import migrates
from roost_gateway.step.attempt import Failure, StepAttempt, WorkerFailureError
from roost_gateway.step.call import Fold
from roost_gateway.step.output import RenderedStep
from roost_gateway.step.placement import Placement
from roost_gateway.step.rewriting import Rewriting, drops_thinking, earlier_turns, rewriting
from roost_gateway.step.worker_stream import render

log = logging.getLogger(__name__)

_ENTRIES = 32


class Migration:
    """Migrates sessions, each as part of an attempt at a step."""

    def __init__(self, store: SessionStore, fleet: Fleet, placement: Placement) -> None:
        self._store = store
        self._fleet = fleet
        self._workers = fleet.workers
        self._clients = fleet.clients
        self._placement = placement

    async def migrate_if_due(self, attempt: StepAttempt) -> Descriptor | None:
        """Migrates the session if its pool's model has changed, or if thinking leaves its log. Returns the record of
        the generation that ended, if it did. The client gets `Migrated`, also for an earlier migration that it does not
        know of.

        Raises Refused, StoreAwayError.
        """
        former = attempt.descriptor
        if await self._is_due(attempt):
            await self._migrate(attempt)
        elif drops_thinking(attempt) and not migrates(attempt.pool, former):
            await self._drop_thinking(attempt)
        if attempt.descriptor is not former:
            attempt.outbox.put(last_migration(attempt.descriptor))
            return former
        event = unknown_migration(former, attempt.call.request.expected_head)
        if event is not None:
            attempt.outbox.put(event)
        return None

    async def fold(self, attempt: StepAttempt, fold: Fold) -> Descriptor:
        """Folds the session's log, which ends the attempt. Returns the record of the generation that ended.

        Raises Refused, also what makes the summary impossible; StoreAwayError.
        """
        former = attempt.descriptor
        await self._is_due(attempt)  # the log is rendered for the pool's model
        entries = await self._entries(former)
        folded = steps_to_fold(entries, fold.keep_turns, keeps_fewer=fold.is_for_budget)
        renewed = folded_log(entries, folded, await fold.summarise(), attempt.call.request.step_id)
        plan = Rewriting(without_thinking=max(1, earlier_turns(attempt, renewed)))
        await self._write(attempt, renewed, plan, folded=folded, renews_budget=fold.is_for_budget)
        return former

    async def _is_due(self, attempt: StepAttempt) -> bool:
        """Whether to migrate now. A step whose output a worker of the old revision may still have ends there."""
        if not migrates(attempt.pool, attempt.descriptor):
            return False
        fresh = await self._fleet.pools.reread(attempt.pool.pool)  # an outdated document would migrate the session back
        if not migrates(fresh, attempt.descriptor) or await self._has_output(attempt):
            return False
        attempt.migrates_to(fresh)
        return True

    async def _has_output(self, attempt: StepAttempt) -> bool:
        fenced, descriptor = attempt.began.fenced, attempt.descriptor
        if fenced is None or not fenced.worker_id:
            return False
        worker = await self._workers.find(descriptor.pool, fenced.worker_id)
        return worker is not None and worker.model_revision == descriptor.model_revision

    async def _drop_thinking(self, attempt: StepAttempt) -> None:
        """Migrates the session to a log without thinking. If that log cannot be rendered, the step continues the log as
        it is."""
        try:
            await self._migrate(attempt)
        except Refused as refused:
            if refused.reason not in (Reason.MODEL_REVISION_MISMATCH, Reason.STEP_TOO_LONG):
                raise
            log.warning("session %s keeps the thinking of earlier turns: %s", attempt.session_id, refused.message)

    async def _migrate(self, attempt: StepAttempt) -> None:
        fault_point("gateway.migration.begun")
        former = attempt.descriptor
        entries = await self._entries(former)
        plan = rewriting(attempt, entries)
        if plan is None:
            return
        if plan.kept:
            end = entries[plan.kept - 1].head.length
            plan = replace(plan, kept_ids=await self._store.ids(former.session_id, former.generation, 0, end))
        await self._write(attempt, entries, plan)

    async def _write(
        self,
        attempt: StepAttempt,
        entries: Sequence[LogEntry],
        plan: Rewriting,
        *,
        folded: int = 0,
        renews_budget: bool = False,
    ) -> None:
        """Has a worker render the steps that do not keep their tokens, and begins the new generation."""
        worker = self._reserved(attempt)
        while True:
            worker = worker or await self._placement.place(attempt)
            try:
                request = await self._rendered(worker, attempt, entries, plan)
                break
            except WorkerFailureError as failure:
                log.info("session %s was not rendered at %s: %s", attempt.session_id, worker.worker_id, failure)
                if failure.failure is Failure.LOST:
                    self._workers.mark_broken(worker)
                    self._clients.forget(self._clients.channel(worker.address))
                attempt.failed_at(worker.worker_id, failure.failure, is_fault=failure.failure is not Failure.BUSY)
                worker = None
        fault_point("gateway.rendered")
        descriptor = await self._store.migrate(replace(request, folded=folded, renews_budget=renews_budget))
        fault_point("gateway.migrated")
        attempt.migrated(descriptor, worker.worker_id)

    async def _entries(self, descriptor: Descriptor) -> list[LogEntry]:
        entries: list[LogEntry] = []
        while len(entries) < descriptor.steps:
            page = await self._store.log(descriptor.session_id, descriptor.generation, len(entries), _ENTRIES)
            if not page:
                raise Refused(Reason.SESSION_NOT_FOUND, "the session has been erased")
            entries += page
        return entries

    def _reserved(self, attempt: StepAttempt) -> WorkerState | None:
        """The worker at which an earlier attempt had reserved to migrate, or None."""
        reserved = attempt.began.reserved
        worker = self._workers.get(attempt.pool.pool, reserved) if reserved else None
        return worker if worker is not None and worker.model_revision == attempt.need.model_revision else None

    async def _rendered(
        self, worker: WorkerState, attempt: StepAttempt, entries: Sequence[LogEntry], plan: Rewriting
    ) -> MigrateRequest:
        pool, revision = attempt.pool, attempt.need.model_revision
        try:
            rendered = await render(attempt, entries, plan, worker, self._clients)
            request = migrate_request(attempt, entries, rendered, plan)
        except ValueError as error:
            raise WorkerFailureError(Failure.FAULTY, str(error)) from error
        except Refused as refused:
            if refused.reason is not Reason.INVALID_REQUEST:
                raise
            raise _cannot_be_shown(revision, refused.message) from refused
        length = len(request.packed_ids) // ID_BYTES
        if pool.token_limit and length >= pool.token_limit:
            raise _too_long(revision, length, pool.token_limit)
        return request


def migrate_request(
    attempt: StepAttempt, entries: Sequence[LogEntry], rendered: Sequence[RenderedStep], plan: Rewriting
) -> MigrateRequest:
    """What Migrate writes: the same steps in the tokens of the revision that the attempt needs. `rendered` are those
    that do not keep their tokens.

    Raises ValueError when a step or a prompt is missing, or ids are cut off.
    """
    packed, migrated = bytearray(plan.kept_ids), list(entries[: plan.kept])
    head = migrated[-1].head if migrated else Head()
    for entry, step in zip(entries[plan.kept :], rendered, strict=True):
        if not step.prompt_ids or (len(step.prompt_ids) | len(step.output_ids)) % ID_BYTES:
            raise ValueError(f"step {entry.step_id} was rendered without a prompt, or to half an id")
        ids = step.prompt_ids + step.output_ids
        head = Head(head.length + len(ids) // ID_BYTES, extend(head.log_hash, ids))
        packed += ids
        migrated.append(
            replace(
                entry,
                prompt_tokens=len(step.prompt_ids) // ID_BYTES,
                output_tokens=len(step.output_ids) // ID_BYTES,
                cached_tokens=0,
                reconstructed_tokens=0,
                head=head,
                model_revision=attempt.need.model_revision,
                worker_id="",
            )
        )
    return MigrateRequest(
        session_id=attempt.session_id,
        ref=attempt.ref,
        previous=attempt.descriptor.head,
        entries=tuple(migrated),
        packed_ids=bytes(packed),
        model_revision=attempt.need.model_revision,
        ttl_ms=attempt.call.ttl_ms,
        lease_ms=LEASE_TTL_MS,
        without_thinking=plan.without_thinking,
    )


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
