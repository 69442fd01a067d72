"""One gateway's run of a detached step: takes its events, and reports them to the store."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from roost.contract.events import Delta, Event
from roost.contract.lease import LEASE_PERIOD_SECONDS
from roost.contract.steps import Cursor
from roost.store.detached import (
    DetachedProgress,
    DetachedReport,
    DetachedState,
    DetachedStep,
    DetachedSteps,
    StepFailure,
)
from roost.store.records import StoreAwayError
from roost_gateway.core.begun_step import BegunStep
from roost_gateway.core.caller import Caller
from roost_gateway.core.detached_log import EventsToLog
from roost_gateway.core.shared_steps import cursor_after

PACE_SECONDS = 0.05
"""Least time between two reports: events that come within it are logged together."""
LEASE_MS = 3000
"""How long a run keeps a step without a report. A worker keeps the output of a dead gateway for longer, so that the
next run finds it."""
PATIENCE_SECONDS = 30.0
"""How long a step's end is reported while the store is away. Then another gateway finds out by taking the step over."""


@dataclass(frozen=True, slots=True)
class DetachedEnd:
    """What became of a step."""

    state: DetachedState
    failure: StepFailure | None = None


class DetachedRun:
    """Reports on one step for as long as this gateway runs it. Raises Refused: ATTEMPT_FENCED, once another gateway
    has taken the step over."""

    def __init__(
        self,
        store: DetachedSteps,
        step: DetachedStep,
        runner: bytes,
        begun: BegunStep,
        caller: Caller,
        *,
        is_streamed: bool,
        former: DetachedProgress | None = None,
    ) -> None:
        """`former` is how the step stood when it was taken over, with all of its events; None for its first run.
        `is_streamed`: whether its events are logged."""
        self.step = step
        self.begun = begun
        self.caller = caller
        self.is_cancelled = former is not None and former.is_cancelled
        """Whether the client has asked for the step's end."""
        self.received: Cursor | None = None
        """What is known of the output."""
        self._store = store
        self._runner = runner
        self._events = EventsToLog(is_streamed=is_streamed)
        self._logged = 0
        if former is not None:
            self._events = EventsToLog(is_streamed=is_streamed, state=former.state, logged=former.events)
            self._logged = former.logged
            deltas = [event for event in former.events if isinstance(event, Delta)]
            self.received = cursor_after(deltas[-1]) if deltas else None
        self._reading: asyncio.Task[None] | None = None
        self._batch: list[Event] = []
        """Events on their way to the log. They stay as they are until the store has them, since it may have them
        although it did not answer."""
        self._wake = asyncio.Event()

    async def read(self, events: AsyncIterator[Event]) -> None:
        """Takes the step's events, to the last."""
        async for event in events:
            if isinstance(event, Delta):
                self.received = cursor_after(event)
            self._events.add(event)
            if self._events:
                self._wake.set()

    def leave(self) -> None:
        """Ends the reading of the step's events, so that the step can be handed over."""
        if self._reading is not None:
            self._reading.cancel()

    def hurry(self) -> None:
        """Reports at once, and so hears whether the client wants the end."""
        self._wake.set()

    async def attend(self, reading: "asyncio.Task[None]") -> None:
        """Reports until `reading` has ended. Cancels it when the client asks for the step's end."""
        self._reading = reading
        reading.add_done_callback(lambda _: self._wake.set())
        while not reading.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEASE_PERIOD_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            with contextlib.suppress(StoreAwayError):  # the next report has it
                await self._report()
            if self.is_cancelled:
                reading.cancel()
            await asyncio.wait({reading}, timeout=PACE_SECONDS)

    async def end(self, end: DetachedEnd) -> None:
        """Logs what is left, and what became of the step."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                await self._report_rest()
                await self._report(end)
                return
            except StoreAwayError:
                if time.monotonic() > give_up:
                    raise
            await asyncio.sleep(LEASE_PERIOD_SECONDS)

    async def hand_over(self) -> None:
        """Logs what is left, and lets another gateway take the step over at once."""
        await self._report_rest()
        await self._report(lease_ms=0)

    async def _report_rest(self) -> None:
        while self._batch or self._events:
            await self._report()

    async def _report(self, end: DetachedEnd | None = None, lease_ms: int = LEASE_MS) -> None:
        self._batch = self._batch or self._events.take()
        report = DetachedReport(
            name=self.step.name,
            runner=self._runner,
            state=self._events.state if end is None else end.state,
            first=self._logged,
            events=self._batch,
            lease_ms=lease_ms if end is None else 0,
            ttl_ms=self.step.ttl_ms,
            failure=None if end is None else end.failure,
        )
        is_cancelled = await self._store.report(report)
        self.is_cancelled = self.is_cancelled or is_cancelled
        self._logged += len(self._batch)
        self._batch = []
