"""Temporary: the driver of a step behind the interface that the core calls."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from roost import wire_steps
from roost.contract.events import Event
from roost_gateway.step.outbox import Outbox
from roost_gateway.step.run import StepCall, StepRun


class RunningStep:
    def __init__(self, parts: Any, call: StepCall) -> None:
        self._parts = parts
        self._outbox = Outbox()
        self._run = StepRun(parts, call, self._outbox)
        self._step_id = call.request.step_id
        self._task = asyncio.create_task(self._run.run(), name=f"step {self._step_id}")
        self._task.add_done_callback(lambda _: self._outbox.close())

    @property
    def committing(self) -> bool:
        return self._run.committing

    async def events(self) -> AsyncIterator[Event]:
        async for response in self._outbox.events():
            event = wire_steps.event_from_wire(self._step_id, response)
            assert event is not None
            yield event

    async def rest(self, seconds: float) -> None:
        await self._outbox.rest(seconds)

    async def ended(self) -> None:
        await self._task

    def leave(self) -> None:
        if self._task.done():
            return
        if not self._run.committing:
            self._task.cancel()
        self._parts.background.adopt(self._task)

    def abandon(self) -> None:
        self._parts.closing = True
        self._task.cancel()


class Steps:
    def __init__(self, store, workers, clients, placement, attempts, facts, background, telemetry) -> None:  # type: ignore
        from roost_gateway.core.parts import Parts

        self._parts = Parts(None, store, workers, clients, attempts, placement, facts, telemetry, background=background)  # type: ignore

    def start(self, call: StepCall) -> RunningStep:
        return RunningStep(self._parts, replace(call, request=wire_steps.step_request_to_wire(call.request)))  # type: ignore
