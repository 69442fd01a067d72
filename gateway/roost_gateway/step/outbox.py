"""The events of one step on their way to its client."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from roost.v1.session_service_pb2 import (
    StepCommitted,
    StepMigrated,
    StepQueued,
    StepResponse,
    StepRestarted,
    StepStarted,
)
from roost_gateway.step.output import StepOutput


class Outbox:
    """Filled by the step's driver, emptied by its call. A slow client slows neither the worker nor the commit.

    Events leave in the order in which they were put in; output leaves as deltas from its cursor, all of it before
    the last event.
    """

    def __init__(self) -> None:
        self._events: deque[StepResponse] = deque()
        self._output: StepOutput | None = None
        self._last: StepResponse | None = None
        self._closed = False
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()

    def queued(self, position: int) -> None:
        self._put(StepResponse(queued=StepQueued(position=position)))

    def migrated(self, event: StepMigrated) -> None:
        self._put(StepResponse(migrated=event))

    def started(self, output: StepOutput, worker: str, cached_tokens: int) -> None:
        """A worker has begun or taken over; deltas are taken from `output` from now on."""
        self._output = output
        event = StepStarted(
            attempt=output.attempt, worker=worker, prompt_tokens=len(output.prompt_ids), cached_tokens=cached_tokens
        )
        self._put(StepResponse(started=event))

    def restarted(self, output: StepOutput, reason: str) -> None:
        """What the client has is void: `output` is sent from its start."""
        output.rewind()
        self._put(StepResponse(restarted=StepRestarted(attempt=output.attempt, reason=reason)))

    def more(self) -> None:
        """The output has grown."""
        self._wake.set()

    def committed(self, event: StepCommitted, output: StepOutput) -> None:
        """The last event; what is left of the output goes before it."""
        self._output = output
        self._last = StepResponse(committed=event)
        self._wake.set()
        self._ended.set()

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._wake.set()
        self._ended.set()

    async def events(self) -> AsyncIterator[StepResponse]:
        """Every event, until the last one or `close`."""
        while True:
            self._wake.clear()
            while (event := self._next()) is not None:
                yield event
            if self._last is not None:
                yield self._last
                return
            if self._closed:
                return
            await self._wake.wait()

    async def rest(self, seconds: float) -> None:
        """Lets output gather for so long, or until nothing more comes."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            pass

    def _next(self) -> StepResponse | None:
        if self._events:
            return self._events.popleft()
        return self._output.take() if self._output is not None else None

    def _put(self, event: StepResponse) -> None:
        self._events.append(event)
        self._wake.set()
