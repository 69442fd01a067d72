"""A step from Begin to Committed (ARCHITECTURE.md, "The way of a step"), and what happens when something dies."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from roost.contract.budgets import BudgetScope, BudgetStatus
from roost.contract.events import Committed, Event
from roost.contract.heads import AttemptRef
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.contract.steps import Deltas
from roost.fault_points import fault_point
from roost.store.interface import SessionStore
from roost.store.records import AlreadyCommitted, Began, BeginRequest, Descriptor, StoreAwayError
from roost.store.service import NOTHING_DONE, Done
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.background import Background
from roost_gateway.step.call import StepCall
from roost_gateway.step.commit import commit, replay
from roost_gateway.step.length import check_length
from roost_gateway.step.migration import Migration
from roost_gateway.step.output import Outbox
from roost_gateway.step.placement import Placement
from roost_gateway.step.relay import Relay
from roost_gateway.step.renewal import Renewal
from roost_gateway.telemetry import StepFigures, Telemetry

log = logging.getLogger(__name__)

GIVE_UP_SECONDS = 1.0
"""How long an error waits until its attempt has ended in the store, which may be away."""


class RunningStep:
    """A step that is driven by a task of its own. A client that is slow to take its events does not slow it down."""

    def __init__(self, call: StepCall) -> None:
        self.call = call
        self.outbox = Outbox(holds_output=call.request.deltas is Deltas.NONE)
        self.attempt: StepAttempt | None = None
        """None until Begin has returned it."""
        self.task: asyncio.Task[None] | None = None
        """None until it is started."""
        self.is_heard = False
        """Whether somebody has heard how it ended."""
        self._began: asyncio.Future[Began | AlreadyCommitted] = asyncio.get_running_loop().create_future()

    def begins(self, began: Began | AlreadyCommitted) -> None:
        """Notes what Begin returned."""
        self._began.set_result(began)

    async def began(self) -> Began | AlreadyCommitted:
        """Waits for what Begin returns. Raises Refused, StoreAwayError, or CancelledError after it was cut off."""
        assert self.task is not None, "a step is driven from its start on"
        futures: list[asyncio.Future[Any]] = [self.task, self._began]
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        if not self._began.done():
            await self.result()
        return self._began.result()

    @property
    def committing(self) -> bool:
        """Whether the output is complete; from then on the step is committed even when its client leaves."""
        return self.attempt is not None and self.attempt.committing

    def events(self) -> AsyncIterator[Event]:
        """The events of the step, until it ends; `result` says how it ended."""
        return self.outbox.events()

    async def rest(self, seconds: float) -> None:
        """Lets output gather for so long, or until nothing more comes."""
        await self.outbox.rest(seconds)

    async def result(self) -> None:
        """Waits for the end. Raises Refused, StoreAwayError, or CancelledError after it was cut off."""
        assert self.task is not None, "a step is driven from its start on"
        try:
            await self.task
        finally:
            self.is_heard = self.task.done()

    def cut_off(self) -> None:
        """Ends it, unless it is being committed."""
        if self.task is not None and not self.committing:
            self.task.cancel()


class Steps:
    """Drives the steps of one gateway."""

    def __init__(
        self, store: SessionStore, fleet: Fleet, on_committed: Callable[[StepCall], None], telemetry: Telemetry
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._on_committed = on_committed
        self._telemetry = telemetry
        self._placement = Placement(store, fleet)
        self._renewal = Renewal(store)
        self._background = Background()
        self._migration = Migration(store, fleet, self._placement)
        self._running: set[RunningStep] = set()
        self.closing = False
        """Whether steps that are cut off leave their attempts as orphans, for another gateway to resume."""

    def __len__(self) -> int:
        """Steps that have a client."""
        return len(self._running)

    @property
    def live_attempts(self) -> int:
        return len(self._renewal)

    def waiting(self) -> list[tuple[float, dict[str, str]]]:
        """Lengths of the queues with their labels, for a gauge."""
        return self._placement.waiting()

    def any_waits(self, pool: str) -> bool:
        """Whether a step of the pool waits for room in this gateway."""
        return self._placement.any_waits(pool)

    def held(self) -> list[tuple[str, int, int]]:
        """Pool, steps and tokens of what the gate holds in this gateway, for gauges."""
        return self._placement.held()

    def workers_changed(self, pool: str) -> None:
        """Lets the steps of a pool that wait for a worker try again, since its workers were read again."""
        self._placement.kick(pool)

    def start(self, call: StepCall) -> RunningStep:
        """Begins a step. The caller takes its events and calls `leave` in the end."""
        step = RunningStep(call)
        step.task = asyncio.create_task(self._run(step), name=f"step {call.request.step_id}")
        step.task.add_done_callback(lambda _: step.outbox.close())
        self._running.add(step)
        return step

    def leave(self, step: RunningStep) -> None:
        """Ends the client's part in a step: unless it has ended or is being committed, it is cut off."""
        self._running.discard(step)
        if step.task is not None and not step.is_heard:  # it may have failed just as its client left
            step.cut_off()
            self._background.adopt(step.task)

    def close(self) -> None:
        """Cuts all steps off, because the gateway stops."""
        self.closing = True
        for step in self._running:
            step.cut_off()

    async def aclose(self, finish_seconds: float) -> None:
        """Waits `finish_seconds` for cancels and aborts that are under way, then ends everything."""
        await self._background.finish(finish_seconds)
        await self._renewal.aclose()
        await self._placement.aclose()

    async def _run(self, step: RunningStep) -> None:
        fault_point("gateway.step.received")
        call = step.call
        began = await self._begin_or_fold(call)
        try:
            fault_point("gateway.begin.done")
            step.begins(began)
            if isinstance(began, AlreadyCommitted):
                replay(began, call.request, step.outbox)
                return
            self._telemetry.name_step(call.request.session_id, began.descriptor.model)
            step.attempt = attempt = StepAttempt(call, began, step.outbox)
            relay = Relay(attempt, self._store, self._fleet, self._placement, self._telemetry)
        except Exception as error:
            if isinstance(began, Began):
                await self._end(self._abort(call.request.session_id, began.ref), error)
            raise
        with self._renewal.renewing(attempt), self._placement.counting(attempt):
            try:
                await self._drive(attempt, relay)
            except asyncio.CancelledError:
                if attempt.fenced:
                    raise Refused(Reason.ATTEMPT_FENCED, "a newer attempt has taken this step over") from None
                raise

    async def _begin_or_fold(self, call: StepCall) -> Began | AlreadyCommitted:
        """Begins a step, after its session's log was folded if its role says so and its budget is used up. Refuses as
        Begin does when it cannot be folded."""
        try:
            return await self._begin(call.begin_request(self._placement.first_worker(call)))
        except Refused as refused:
            if call.at_budget is None:
                raise
            fold = call.folding_at_budget(call.at_budget)
            if not await self._is_to_fold(fold, refused):
                raise
            try:
                await self._fold(fold)
            except Refused as error:
                log.info("session %s is not folded: %s", call.request.session_id, error.message)
                raise (error if BudgetStatus.from_metadata(error.metadata) else refused) from None
        return await self._begin(call.begin_request())

    async def _is_to_fold(self, fold: StepCall, refused: Refused) -> bool:
        """Whether a step was refused because its session's budget is used up, or because the fold before it runs, which
        a gateway may have left behind."""
        if refused.reason is Reason.ANOTHER_STEP_RUNNING:
            attempt = (await self._store.get(fold.request.session_id, fold.tenant)).attempt
            return attempt is not None and attempt.step_id == fold.request.step_id
        status = BudgetStatus.from_metadata(refused.metadata)
        return status is not None and status.scope is BudgetScope.SESSION

    async def _fold(self, call: StepCall) -> None:
        step = self.start(call)
        try:
            await step.result()
        finally:
            self.leave(step)

    async def _begin(self, request: BeginRequest) -> Began | AlreadyCommitted:
        """If the step is cut off before Begin has returned, the attempt is aborted as soon as Begin returns it."""
        begin = asyncio.ensure_future(self._store.begin(request))
        try:
            return await asyncio.shield(begin)
        except asyncio.CancelledError:
            self._background.spawn(self._undo(request.session_id, begin))
            raise

    async def _undo(self, session_id: str, begin: "asyncio.Future[Began | AlreadyCommitted]") -> None:
        with contextlib.suppress(Refused, StoreAwayError):
            began = await begin
            if isinstance(began, Began) and not self.closing:
                await self._store.abort(session_id, began.ref)

    async def _drive(self, attempt: StepAttempt, relay: Relay) -> None:
        try:
            if attempt.call.fold is not None:
                self._migrated(attempt, await self._migration.fold(attempt, attempt.call.fold))
                return
            former = await self._migration.migrate_if_due(attempt)
            if former is not None:
                self._migrated(attempt, former)
            check_length(attempt, self._fleet.workers)
            stream = await relay.generate()
            fault_point("gateway.finished")
            committed = await commit(self._store, attempt, stream.worker_id, self._placement.learn_counter)
        except BaseException as error:
            await self._clean_up(attempt, relay, error)
            raise
        self._background.spawn(stream.commit(committed.head))
        try:
            self._on_committed(attempt.call)  # before the client, whose next step may come at once, has Committed
        except Exception:
            log.exception("step %s is committed, but the gateway does not know it", attempt.call.request.step_id)
        await asyncio.sleep(0)  # Committed is on its way before the figures are written
        try:
            self._telemetry.committed(_figures(attempt, committed))
        except Exception:
            log.exception("step %s is committed, but it is not in the figures", attempt.call.request.step_id)

    def _migrated(self, attempt: StepAttempt, former: Descriptor) -> None:
        """Drops the KV of the generation that ended, which is not needed again by workers of another revision. With the
        same revision the new log begins as the old one did."""
        is_moved = former.model_revision != attempt.descriptor.model_revision
        self._telemetry.migrated(attempt.descriptor.model_revision, attempt.descriptor.head.length, is_moved=is_moved)
        if not is_moved:
            return
        workers = [
            worker
            for worker in self._fleet.workers.states(former.pool)
            if worker.model_revision == former.model_revision
        ]
        if workers:
            evict = self._fleet.clients.evict(former.pool, workers, former.session_id, attempt.ref.epoch)
            self._background.spawn(evict)

    async def _clean_up(self, attempt: StepAttempt, relay: Relay, error: BaseException) -> None:
        """Frees what the attempt holds, unless another attempt has the step now or may resume it."""
        resumed_later = isinstance(error, Refused) and error.reason in (Reason.ATTEMPT_FENCED, Reason.COMMIT_UNKNOWN)
        in_doubt = attempt.committing and isinstance(error, asyncio.CancelledError)
        if attempt.fenced or self.closing or resumed_later or in_doubt:
            if relay.stream is not None:
                relay.stream.leave()
            return
        if relay.stream is not None:
            self._background.spawn(relay.stream.cancel())
        self._renewal.stop(attempt)
        await self._end(self._give_up(attempt), error)

    async def _end(self, abort: Coroutine[Any, Any, Any], error: BaseException) -> None:
        """Ends a failed attempt in the store, and waits for that if a client hears of the error: it may come again at
        once, and shall not find the session busy. A step that was cut off waits for nothing."""
        ending = asyncio.create_task(abort)
        self._background.adopt(ending)
        if isinstance(error, Exception):
            await asyncio.wait([ending], timeout=GIVE_UP_SECONDS)

    async def _give_up(self, attempt: StepAttempt) -> None:
        counter = await self._abort(attempt.session_id, attempt.ref, attempt.done)
        if counter is not None:
            self._placement.learn_counter(attempt, counter)

    async def _abort(self, session_id: str, ref: AttemptRef, done: Done = NOTHING_DONE) -> int | None:
        """Returns the tenant's counter, if the store knows it."""
        try:
            return await self._store.abort(session_id, ref, done)
        except StoreAwayError:
            log.info("an attempt of %s could not be ended; its lease will run out", session_id)
            return None


def _figures(attempt: StepAttempt, committed: Committed) -> StepFigures:
    return StepFigures(
        model=attempt.descriptor.model,
        prompt_tokens=committed.usage.prompt_tokens,
        output_tokens=committed.usage.output_tokens,
        cached_tokens=committed.usage.cached_tokens,
        queue_seconds=attempt.clock.queue_seconds,
        first_token_seconds=attempt.clock.first_token_seconds,
        total_seconds=attempt.clock.total_seconds,
        failovers=attempt.failovers,
        why=committed.why,
    )
