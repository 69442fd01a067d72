"""A step from Begin to Committed (ARCHITECTURE.md, "The way of a step"), and what happens when something dies."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from roost.contract.events import Event
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.fault_points import fault_point
from roost.store.interface import SessionStore
from roost.store.records import AlreadyCommitted, Began, BeginRequest, CommitRequest, LogEntry, StoreUnavailableError
from roost_gateway.errors import STORE_RETRY_SECONDS
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.step.attempt import StepAttempt
from roost_gateway.step.background import Background
from roost_gateway.step.call import StepCall
from roost_gateway.step.facts import FactsCache
from roost_gateway.step.log_entries import commit_request, committed_event, replay
from roost_gateway.step.migration import Migration
from roost_gateway.step.output import Outbox
from roost_gateway.step.placement import Placement
from roost_gateway.step.relay import Relay
from roost_gateway.step.renewal import Renewal
from roost_gateway.telemetry import StepFigures, Telemetry

log = logging.getLogger(__name__)

COMMIT_PATIENCE_SECONDS = 30.0
"""How long after the step's deadline a commit is still tried while the store is away."""
_FIRST_WAIT, _LONGEST_WAIT = 0.02, 0.5


class RunningStep:
    """A step that is driven by a task of its own. A client that is slow to take its events does not slow it down."""

    def __init__(self, call: StepCall, background: Background) -> None:
        self.call = call
        self.outbox = Outbox()
        self.attempt: StepAttempt | None = None
        """None until Begin has returned it."""
        self.abandoned = False
        """Whether its attempt is left as an orphan when it is cut off."""
        self._background = background
        self._task: asyncio.Task[None] | None = None

    def drive(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work`, at whose end no more events come."""
        self._task = asyncio.create_task(work, name=f"step {self.call.request.step_id}")
        self._task.add_done_callback(lambda _: self.outbox.close())

    @property
    def committing(self) -> bool:
        """Whether the output is complete: from then on a client that leaves changes nothing, the step is committed."""
        return self.attempt is not None and self.attempt.committing

    def events(self) -> AsyncIterator[Event]:
        """What the step yields until it ends, in whichever way; `ended` says how."""
        return self.outbox.events()

    async def rest(self, seconds: float) -> None:
        """Lets output gather for so long, or until nothing more comes."""
        await self.outbox.rest(seconds)

    async def ended(self) -> None:
        """Waits for the end. Raises Refused, StoreUnavailableError, or CancelledError after `abandon`."""
        assert self._task is not None, "a step is driven from its start on"
        await self._task

    def leave(self) -> None:
        """Its client has gone: unless it is being committed, its attempt is cancelled. Does nothing after its end."""
        if self._task is None or self._task.done():
            return
        if not self.committing:
            self._task.cancel()
        self._background.adopt(self._task)

    def abandon(self) -> None:
        """The gateway stops: unless it is being committed, its attempt is left as an orphan, for another gateway to
        resume."""
        self.abandoned = True
        if self._task is not None and not self.committing:
            self._task.cancel()


class Steps:
    """Drives the steps of one gateway."""

    def __init__(self, store: SessionStore, fleet: Fleet, facts: FactsCache, telemetry: Telemetry) -> None:
        self._store = store
        self._fleet = fleet
        self._facts = facts
        self._telemetry = telemetry
        self._placement = Placement(store, fleet)
        self._renewal = Renewal(store)
        self._background = Background()
        self._migration = Migration(store, fleet, self._placement, self._background, telemetry)

    async def aclose(self, finish_seconds: float) -> None:
        """Waits so long for cancels and aborts that are under way, then ends everything."""
        await self._background.finish(finish_seconds)
        await self._renewal.aclose()
        await self._placement.aclose()

    def __len__(self) -> int:
        """Attempts that are live."""
        return len(self._renewal)

    def waiting(self) -> list[tuple[float, dict[str, str]]]:
        """Lengths of the queues with their labels, for a gauge."""
        return self._placement.waiting()

    def workers_changed(self, pool: str) -> None:
        """The pool's workers were read again: steps that wait for one try again."""
        self._placement.kick(pool)

    def start(self, call: StepCall) -> RunningStep:
        """Begins a step. The caller takes its events, and in the end calls `leave`."""
        step = RunningStep(call, self._background)
        step.drive(self._run(step))
        return step

    async def _run(self, step: RunningStep) -> None:
        fault_point("gateway.step.received")
        call = step.call
        prompt = call.prompt_estimate(self._fleet.workers.bytes_per_token(call.pool.pool))
        began = await self._begin(step, call.begin_request(prompt))
        fault_point("gateway.begin.done")
        if isinstance(began, AlreadyCommitted):
            replay(began, call.request, step.outbox)
            return
        self._telemetry.name_step(call.request.session_id, began.descriptor.model)
        step.attempt = attempt = StepAttempt(call, began, step.outbox, prompt)
        queue = self._placement.queue(call.pool.pool)
        with self._renewal.of(attempt):
            queue.started(call.tenant)
            try:
                await self._drive(step, attempt)
            except asyncio.CancelledError:
                if attempt.fenced:
                    raise Refused(Reason.ATTEMPT_FENCED, "a newer attempt has taken this step over") from None
                raise
            finally:
                queue.ended(call.tenant)

    async def _begin(self, step: RunningStep, request: BeginRequest) -> Began | AlreadyCommitted:
        """A step that is cut off before Begin has returned leaves no attempt: it is aborted when Begin returns it."""
        begin = asyncio.ensure_future(self._store.begin(request))
        try:
            return await asyncio.shield(begin)
        except asyncio.CancelledError:
            self._background.spawn(self._undo(step, begin))
            raise

    async def _undo(self, step: RunningStep, begin: "asyncio.Future[Began | AlreadyCommitted]") -> None:
        with contextlib.suppress(Refused, StoreUnavailableError):
            began = await begin
            if isinstance(began, Began) and not step.abandoned:
                await self._store.abort(step.call.request.session_id, began.ref)

    async def _drive(self, step: RunningStep, attempt: StepAttempt) -> None:
        relay = Relay(attempt, self._store, self._fleet, self._placement, self._telemetry)
        try:
            await self._migration.migrate_if_due(attempt)
            finish = await relay.generate()
            fault_point("gateway.finished")
            attempt.commits()
            entry = await self._commit(commit_request(attempt, finish), attempt.call.deadline)
            fault_point("gateway.commit.done")
            event = committed_event(attempt, entry)
            self._facts.continues(attempt.session_id, attempt.call.tenant)
            if attempt.stream is not None:
                self._background.spawn(attempt.stream.commit(event.head))
            attempt.outbox.committed(event, attempt.output)
            await asyncio.sleep(0)  # Committed is on its way before the figures are written
            self._telemetry.committed(_figures(attempt, entry))
        except BaseException as error:
            self._clean_up(step, attempt, error)
            raise

    async def _commit(self, request: CommitRequest, deadline: float) -> LogEntry:
        """Commits, again and again while the store is away; the script is idempotent by the attempt's nonce.

        Raises Refused: what the store refuses, or COMMIT_UNKNOWN when the store stayed away.
        """
        wait, give_up = _FIRST_WAIT, deadline + COMMIT_PATIENCE_SECONDS
        while True:
            try:
                async with asyncio.timeout(max(0.1, give_up - time.monotonic())):
                    return await self._store.commit(request)
            except (StoreUnavailableError, TimeoutError) as error:
                if time.monotonic() + wait >= give_up:
                    raise _unknown() from error
            await asyncio.sleep(wait)
            wait = min(_LONGEST_WAIT, wait * 2)

    def _clean_up(self, step: RunningStep, attempt: StepAttempt, error: BaseException) -> None:
        """Frees what the attempt holds, unless another attempt has the step now or may resume it."""
        resumed_later = isinstance(error, Refused) and error.reason in (Reason.ATTEMPT_FENCED, Reason.COMMIT_UNKNOWN)
        in_doubt = attempt.committing and isinstance(error, asyncio.CancelledError)
        if attempt.fenced or step.abandoned or resumed_later or in_doubt:
            if attempt.stream is not None:
                attempt.stream.leave()
            return
        if attempt.stream is not None:
            self._background.spawn(attempt.stream.cancel())
        self._background.spawn(self._abort(attempt))

    async def _abort(self, attempt: StepAttempt) -> None:
        try:
            await self._store.abort(attempt.session_id, attempt.ref)
        except StoreUnavailableError:
            log.info("an attempt of %s could not be ended; its lease will run out", attempt.session_id)


def _unknown() -> Refused:
    return Refused(
        Reason.COMMIT_UNKNOWN,
        "the step is complete, but the store did not confirm it; repeat the same step_id to learn the outcome",
        retry_seconds=STORE_RETRY_SECONDS,
    )


def _figures(attempt: StepAttempt, entry: LogEntry) -> StepFigures:
    return StepFigures(
        model=attempt.descriptor.model,
        prompt_tokens=entry.prompt_tokens,
        output_tokens=entry.output_tokens,
        cached_tokens=entry.cached_tokens,
        queue_seconds=attempt.clock.queue_seconds,
        first_token_seconds=attempt.clock.first_token_seconds,
        total_seconds=attempt.clock.total_seconds,
        failovers=attempt.failovers,
    )
