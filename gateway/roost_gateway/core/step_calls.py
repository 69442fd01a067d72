"""Runs a step for its caller: the time limit, the pace of deltas, and the refusal when the gateway stops."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager

from roost.contract.events import Delta, Event
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.fault_points import fault_point
from roost.store.records import AlreadyCommitted, Began
from roost_gateway.core.pressure import Pressure
from roost_gateway.step.call import StepCall
from roost_gateway.step.steps import RunningStep, Steps


class StepEvents(AsyncIterator[Event]):
    """The events of a step that has been started. Iterating raises Refused, StoreAwayError."""

    def __init__(self, steps: Steps, step: RunningStep, events: AsyncIterator[Event]) -> None:
        self._steps = steps
        self._step = step
        self._events = events

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def began(self) -> Began | AlreadyCommitted:
        """How the step began; before its first event. Raises Refused, StoreAwayError when it did not."""
        with _stopping(self._steps):
            return await self._step.began()


class StepCalls:
    """Runs steps for their callers."""

    def __init__(self, steps: Steps, pressure: Pressure) -> None:
        self._steps = steps
        self._pressure = pressure

    @asynccontextmanager
    async def run(self, call: StepCall, limit_seconds: float | None) -> AsyncGenerator[StepEvents, None]:
        """Starts a step. Its events are iterated inside the context, which ends after `limit_seconds` unless the step
        is being committed by then; None never ends it.

        A step whose context is left early is cut off, or, while it is being committed, goes on by itself. Iterating
        raises Refused, StoreAwayError.
        """
        step = self._steps.start(call)
        try:
            async with _time_limit(step, limit_seconds), aclosing(self._events(step)) as events:
                yield StepEvents(self._steps, step, events)
        finally:
            self._steps.leave(step)

    async def _events(self, step: RunningStep) -> AsyncGenerator[Event, None]:
        async for event in step.events():
            yield event
            if isinstance(event, Delta):
                fault_point("gateway.delta.sent")
                if self._pressure.rest:
                    await step.rest(self._pressure.rest)
        with _stopping(self._steps):
            await step.result()


@contextmanager
def _stopping(steps: Steps) -> Iterator[None]:
    """Raises Refused: WORKER_DRAINING when a step was cut off because its gateway stops."""
    try:
        yield
    except asyncio.CancelledError:
        if not steps.closing:
            raise
        message = "this gateway is stopping; go on at another"
        raise Refused(Reason.WORKER_DRAINING, message, retry_seconds=0.0) from None


@asynccontextmanager
async def _time_limit(step: RunningStep, seconds: float | None) -> AsyncGenerator[None, None]:
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
