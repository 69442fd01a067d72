"""The Step calls that run through a gateway: how long each may take, and what becomes of it when its client leaves or
the gateway stops."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from roost.contract.events import Delta, Event
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.fault_points import fault_point
from roost_gateway.core.pressure import Pressure
from roost_gateway.step.steps import RunningStep, StepCall, Steps


class StepCalls:
    """Runs steps for their callers."""

    def __init__(self, steps: Steps, pressure: Pressure) -> None:
        self._steps = steps
        self._pressure = pressure
        self._running: set[RunningStep] = set()
        self._stopping = False

    def __len__(self) -> int:
        return len(self._running)

    @asynccontextmanager
    async def run(self, call: StepCall, limit_seconds: float | None) -> AsyncGenerator[AsyncIterator[Event], None]:
        """Starts a step. Its events are iterated inside the context, which is left when `limit_seconds` are over.

        A step that is left early is cancelled, unless it is being committed: it then goes on by itself.
        Iterating raises Refused, StoreUnavailableError.
        """
        step = self._steps.start(call)
        self._running.add(step)
        try:
            async with _time_limit(step, limit_seconds), aclosing(self._events(step)) as events:
                yield events
        finally:
            self._running.discard(step)
            step.leave()

    def cut_off(self) -> None:
        """Leaves all steps that are not being committed as orphans. Their clients are told to go to another gateway,
        which resumes them."""
        self._stopping = True
        for step in self._running:
            if not step.committing:
                step.abandon()

    async def _events(self, step: RunningStep) -> AsyncGenerator[Event, None]:
        async for event in step.events():
            yield event
            if isinstance(event, Delta):
                fault_point("gateway.delta.sent")
                if self._pressure.rest:
                    await step.rest(self._pressure.rest)
        try:
            await step.ended()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            message = "this gateway is stopping; go on at another"
            raise Refused(Reason.WORKER_DRAINING, message, retry_seconds=0.0) from None


@asynccontextmanager
async def _time_limit(step: RunningStep, seconds: float | None) -> AsyncGenerator[None, None]:
    """Ends the block after `seconds`, unless the step is being committed by then; None never ends it."""
    if seconds is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def expire() -> None:
        if not step.committing:
            limit.reschedule(loop.time())

    timer = loop.call_later(seconds, expire)
    try:
        async with asyncio.timeout(None) as limit:
            yield
    except TimeoutError:
        raise Refused(Reason.DEADLINE_EXCEEDED, "the step took longer than step_timeout_seconds") from None
    finally:
        timer.cancel()
