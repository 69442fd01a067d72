"""Steps of conversations that run without their clients, and whose events any gateway may follow.

The record of such a step is in the store (`roost.store.detached`). A gateway that is asked for a step whose run has
died takes it over, as a client's retry takes a step over.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from roost.contract.lease import LEASE_TTL_SECONDS
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, invalid
from roost.contract.steps import Deltas, StepName
from roost.store.detached import (
    EVENTS_KEPT_MS,
    DetachedProgress,
    DetachedState,
    DetachedStep,
    DetachedSteps,
    StepFailure,
)
from roost.store.records import StoreAwayError
from roost_gateway.core.begun_step import begun_step, recognised_step
from roost_gateway.core.caller import Caller, pool_of_session
from roost_gateway.core.conversations import Conversations, RunsDetachedError
from roost_gateway.core.detached_run import LEASE_MS, DetachedEnd, DetachedRun
from roost_gateway.core.gateway import Gateway
from roost_gateway.core.logged_steps import no_such_response, sessions_of_responses
from roost_gateway.errors import as_refused, internal
from roost_gateway.fleet.pools import Pools
from roost_gateway.recognition.conversation import Conversation, Recognised
from roost_gateway.step.background import Background

log = logging.getLogger(__name__)

CANCEL_SECONDS = 15.0
"""How long a call waits for the end of a step that it has cancelled: for longer than a dead gateway's lease."""
_LOOK_SECONDS = 0.1
_LEFT_OPEN = (Reason.COMMIT_UNKNOWN, Reason.STORE_UNAVAILABLE)
"""Failures after which the step may be committed."""


@dataclass(frozen=True, slots=True)
class Detached:
    """A detached step as its client asked for it."""

    recognised: Recognised
    echo: Mapping[str, Any]
    """What the front needs to answer for it: a JSON object."""
    created: float
    """In seconds since 1970."""
    is_streamed: bool
    """Whether its events are logged."""


class DetachedConversations:
    """Runs and follows detached steps. Every method raises Refused or StoreAwayError, as `Conversations` does.

    A step of another tenant, or of a pool that the caller may not use, is as if it did not exist.
    """

    def __init__(self, conversations: Conversations, gateway: Gateway, pools: Pools, store: DetachedSteps) -> None:
        self._conversations = conversations
        self._gateway = gateway
        self._pools = pools
        self._store = store
        self._runs: dict[StepName, DetachedRun] = {}
        self._background = Background()
        self._is_closing = False

    async def start(
        self, conversation: Conversation, caller: Caller, echo: Mapping[str, Any], *, is_streamed: bool
    ) -> Recognised:
        """Begins the step that a conversation asks for, and returns while it runs. A step that runs detached already
        is left to its run.

        `echo` is a JSON object that `find` returns at any gateway. `is_streamed`: whether its events are logged.
        """
        conversation = replace(conversation, deltas=Deltas.INTERVAL if is_streamed else Deltas.NONE)
        began: asyncio.Future[Recognised] = asyncio.get_running_loop().create_future()
        first_run = self._run_first(conversation, caller, echo, began, is_streamed=is_streamed)
        reading = asyncio.create_task(first_run)
        try:
            futures: list[asyncio.Future[Any]] = [reading, began]
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if not began.done():  # no client would know the step
                reading.cancel()
                self._background.adopt(reading)
            raise
        if not began.done():
            try:
                await reading
            except RunsDetachedError as error:
                return error.recognised
        return began.result()

    async def find(self, name: StepName, caller: Caller) -> Detached | None:
        """The detached step of that name, or None."""
        with sessions_of_responses():
            pool_of_session(name.session_id, caller)
        context = await self._store.context(name, caller.tenant)
        if context is None:
            return None
        recognised = recognised_step(name, context["begun"])
        return Detached(recognised, context["echo"], context["created"], context["isStreamed"])

    async def progress(self, name: StepName, caller: Caller, first: int | None = None) -> DetachedProgress:
        """How a step stands, with its events from place `first` on; None: without events. Takes the step over when
        nobody runs it. Raises Refused: SESSION_NOT_FOUND."""
        pool_of_session(name.session_id, caller)
        progress = await self._store.read(name, caller.tenant, first)
        if progress is None:
            raise no_such_response()
        if not progress.state.is_over and not progress.is_run and name not in self._runs:
            await self._take_over(name, caller, progress.runner)
        return progress

    async def follow(self, name: StepName, caller: Caller) -> AsyncGenerator[DetachedProgress, None]:
        """How a step stands, at once and after each change until it is over, each time with the events since then; the
        first time, with all.

        Raises Refused: INVALID_REQUEST when its events are not kept any more, WORKER_DRAINING when this gateway stops.
        """
        former: DetachedProgress | None = None
        async with aclosing(self._store.news(name)) as news:
            while True:
                progress = await self.progress(name, caller, 0 if former is None else former.logged)
                if not _is_rest(progress, former):
                    raise _not_kept()
                yield progress
                if progress.state.is_over:
                    return
                former = progress
                if self._is_closing:
                    message = "this gateway is stopping; go on at another"
                    raise Refused(Reason.WORKER_DRAINING, message, retry_seconds=0.0)
                await anext(news)

    async def cancel(self, name: StepName, caller: Caller) -> DetachedProgress:
        """Ends a step, unless it is over or is being committed. Returns how it stands then, or after
        `CANCEL_SECONDS`."""
        pool_of_session(name.session_id, caller)
        await self._store.cancel(name, caller.tenant)
        if name in self._runs:
            self._runs[name].hurry()
        progress = await self.progress(name, caller)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS), aclosing(self._store.news(name)) as news:
                while not progress.state.is_over:
                    await anext(news)
                    progress = await self.progress(name, caller)
        return progress

    async def discard(self, name: StepName, caller: Caller) -> bool:
        """Cancels a step that runs, and erases a step that is not committed, with its session if that has no other.
        Returns whether that was done: a committed step goes with its session, and `forget` erases what is kept of it.

        Raises Refused: ANOTHER_STEP_RUNNING when the step has not ended in time.
        """
        progress = await self.cancel(name, caller)
        if progress.state is DetachedState.COMMITTED:
            return False
        if not progress.state.is_over:
            raise Refused(Reason.ANOTHER_STEP_RUNNING, "the response has not ended yet; try again", retry_seconds=1.0)
        await self._store.forget(name)
        await self._delete_if_empty(name.session_id, caller)
        return True

    async def forget(self, name: StepName) -> None:
        """Erases the record and the events of a step whose session is gone."""
        await self._store.forget(name)

    async def finish(self) -> None:
        """Waits until no step runs here."""
        await self._background.idle()

    def close(self) -> None:
        """Hands the steps that run here over to other gateways."""
        self._is_closing = True
        for run in self._runs.values():
            run.leave()

    async def aclose(self, finish_seconds: float) -> None:
        """Waits `finish_seconds` until all steps are handed over, then ends everything."""
        self.close()
        await self._background.finish(finish_seconds)

    async def _delete_if_empty(self, session_id: str, caller: Caller) -> None:
        """Deletes a session without committed steps, unless another step of it runs."""
        give_up = time.monotonic() + LEASE_TTL_SECONDS
        while time.monotonic() < give_up:
            try:
                session = await self._gateway.get(session_id, caller)
                if session.steps == 0:
                    await self._gateway.delete(session_id, caller, session.head)
                return
            except Refused as error:
                if error.reason is not Reason.ANOTHER_STEP_RUNNING:
                    return
            await asyncio.sleep(_LOOK_SECONDS)  # the attempt that was cancelled is still being ended

    async def _run_first(
        self,
        conversation: Conversation,
        caller: Caller,
        echo: Mapping[str, Any],
        began: "asyncio.Future[Recognised]",
        *,
        is_streamed: bool,
    ) -> None:
        async with self._conversations.step(conversation, caller, is_detached=True) as step:
            begun, runner = step.begun, secrets.token_bytes(16)
            pool = await self._pools.get(pool_of_session(begun.start.session_id, caller))
            context = {"begun": begun.document(), "echo": echo, "created": time.time(), "isStreamed": is_streamed}
            record = DetachedStep(begun.request, caller.tenant, context, pool.implicit_ttl_ms)
            if not await self._store.begin(record, runner, LEASE_MS):
                raise RunsDetachedError(begun.recognised)  # another gateway was faster
            run = DetachedRun(self._store, record, runner, begun, caller, is_streamed=is_streamed)
            self._attend(run, asyncio.current_task())
            began.set_result(begun.recognised)
            await run.read(step.events)

    async def _take_over(self, name: StepName, caller: Caller, former: bytes) -> None:
        """Runs a step that nobody runs, unless another gateway is faster."""
        runner = secrets.token_bytes(16)
        if self._is_closing or not await self._store.take_over(name, former, runner, LEASE_MS):
            return
        step, progress = await self._store.find(name, caller.tenant), await self._store.read(name, caller.tenant, 0)
        if step is None or progress is None:  # it has just expired
            return
        log.info("detached step %s of session %s is taken over", name.step_id, name.session_id)
        begun, is_streamed = begun_step(step.request, step.tenant, step.context["begun"]), step.context["isStreamed"]
        run = DetachedRun(self._store, step, runner, begun, caller, is_streamed=is_streamed, former=progress)
        self._attend(run, None if run.is_cancelled else asyncio.create_task(self._read_on(run)))

    async def _read_on(self, run: DetachedRun) -> None:
        """Takes the step again, after the output that is known of it."""
        async with self._conversations.resume(run.begun, run.caller, run.received) as step:
            await run.read(step.events)

    def _attend(self, run: DetachedRun, reading: "asyncio.Task[None] | None") -> None:
        self._runs[run.step.name] = run
        self._background.spawn(self._drive(run, reading))

    async def _drive(self, run: DetachedRun, reading: "asyncio.Task[None] | None") -> None:
        """Reports on a run until its step is over, or another gateway has it. `reading` takes the step's events; None:
        the step is only to be ended."""
        try:
            if reading is not None:
                await run.attend(reading)
            end = await self._end_of(run, reading)
            await (run.hand_over() if end is None else run.end(end))
        except Refused as error:
            log.info("detached step %s is left: %s", run.step.name.step_id, error)
        finally:
            if self._runs.get(run.step.name) is run:  # the step may have been asked for again
                del self._runs[run.step.name]
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _end_of(self, run: DetachedRun, reading: "asyncio.Task[None] | None") -> DetachedEnd | None:
        """What became of the step; None when another gateway has to find out."""
        if reading is None or reading.cancelled():
            return await self._end_of_cancelled(run) if run.is_cancelled else None
        error = reading.exception()
        if error is None:
            return DetachedEnd(DetachedState.COMMITTED)
        refused = as_refused(error)
        if refused is None:
            log.error("detached step %s failed", run.step.name.step_id, exc_info=error)
            refused = internal()
        if self._is_left_open(refused):
            return None
        return DetachedEnd(DetachedState.FAILED, StepFailure(refused.reason, refused.message))

    async def _end_of_cancelled(self, run: DetachedRun) -> DetachedEnd | None:
        """Begins the step once more and leaves it. That fences the attempt that was left, or shows that it has been
        committed."""
        try:
            async with self._conversations.resume(run.begun, run.caller, run.received) as step:
                if not step.is_committed:
                    return DetachedEnd(DetachedState.CANCELLED)
                await run.read(step.events)
        except StoreAwayError:
            return None
        except Refused as error:
            return None if self._is_left_open(error) else DetachedEnd(DetachedState.CANCELLED)
        return DetachedEnd(DetachedState.COMMITTED)

    def _is_left_open(self, refused: Refused) -> bool:
        """Whether the step may be committed all the same, or goes on at another gateway: its next run finds out."""
        return refused.reason in _LEFT_OPEN or (self._is_closing and refused.reason is Reason.WORKER_DRAINING)


def _is_rest(progress: DetachedProgress, former: DetachedProgress | None) -> bool:
    """Whether the events of `progress` are those that follow `former`; None: whether they are the first."""
    first = 0 if former is None else former.logged
    if former is not None and (progress.first_runner != former.first_runner or progress.logged < first):
        return False
    # While a step runs, all its events are kept: what is missing is of a newer gateway's kinds.
    return bool(progress.events) or progress.logged == first or not progress.state.is_over


def _not_kept() -> Refused:
    """The refusal when the events are gone, or are those of a later run of a step that came to nothing."""
    minutes = EVENTS_KEPT_MS // 60_000
    why = f"events are kept for {minutes} minutes after a response has ended; get the response without stream"
    return invalid([("stream", why)])
