"""A caller's part in a step: when its call is ended for it, and how it hears of a gateway that stops."""

import asyncio
import gc
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from roost.contract.events import Delta, Event
from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.memory import MemoryStore
from roost_gateway.core.pressure import Pressure
from roost_gateway.core.step_calls import StepCalls
from roost_gateway.fleet.fleet import Fleet
from roost_gateway.step.steps import Steps
from roost_gateway.telemetry import Telemetry
from step_attempts import attempt_of, descriptor_of

DELTA = Delta("x", [7], 0, 0)


class PlayedStep:
    """A step that yields one delta and ends with the future `end`."""

    def __init__(self, *, committing: bool) -> None:
        self.committing = committing
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.left = False

    async def events(self) -> AsyncIterator[Event]:
        yield DELTA
        await asyncio.wait([self.end])

    async def result(self) -> None:
        await self.end


class PlayedSteps:
    def __init__(self, step: PlayedStep, *, closing: bool = False) -> None:
        self.step, self.closing = step, closing

    def start(self, call: object) -> PlayedStep:
        return self.step

    def leave(self, step: PlayedStep) -> None:
        step.left = True


def run(step: PlayedStep, limit: float | None, *, closing: bool = False) -> Any:
    steps: Any = PlayedSteps(step, closing=closing)
    call: Any = SimpleNamespace()
    return StepCalls(steps, Pressure()).run(call, limit)


async def take_all(step: PlayedStep, *, closing: bool = False) -> None:
    """Takes the step's delta, then all that comes once its driver has ended."""
    async with run(step, None, closing=closing) as events:
        assert await anext(events) is DELTA
        assert [event async for event in events] == []


async def take_nothing_more(step: PlayedStep, limit: float) -> None:
    async with run(step, limit) as events:
        assert await anext(events) is DELTA
        await asyncio.Event().wait()


async def test_a_call_ends_after_its_time_also_while_its_client_takes_nothing() -> None:
    step = PlayedStep(committing=False)
    with pytest.raises(Refused) as refused:
        await take_nothing_more(step, 0.0)
    assert refused.value.reason is Reason.DEADLINE_EXCEEDED
    assert step.left


async def test_a_step_that_is_being_committed_is_not_ended() -> None:
    step = PlayedStep(committing=True)
    async with run(step, 0.0) as events:
        assert await anext(events) is DELTA
        asyncio.get_running_loop().call_later(0.0, step.end.set_result, None)
        assert [event async for event in events] == []
    assert step.left


async def test_a_caller_hears_why_its_step_failed() -> None:
    step = PlayedStep(committing=False)
    step.end.set_exception(Refused(Reason.NO_WORKER, "no worker"))
    with pytest.raises(Refused) as refused:
        await take_all(step)
    assert refused.value.reason is Reason.NO_WORKER


async def test_a_step_that_a_stopping_gateway_cut_off_sends_its_client_to_another() -> None:
    step = PlayedStep(committing=False)
    step.end.cancel()
    with pytest.raises(Refused) as refused:
        await take_all(step, closing=True)
    assert (refused.value.reason, refused.value.retry_seconds) == (Reason.WORKER_DRAINING, 0.0)


async def test_a_client_that_leaves_leaves_its_step() -> None:
    step = PlayedStep(committing=False)
    async with run(step, None) as events:
        assert await anext(events) is DELTA
    assert step.left


async def test_a_step_that_fails_as_its_client_leaves_is_no_error_of_the_loop() -> None:
    """Such as one whose client's deadline ends its wait: both come at once."""
    store, unheard = MemoryStore(), list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    steps = Steps(store, Fleet(store, (), {}), lambda _: None, Telemetry())
    step = steps.start(attempt_of(PoolDocument("a/b"), descriptor_of("a/b/0")).call)
    assert step.task is not None
    await asyncio.wait([step.task])
    steps.leave(step)
    await steps.aclose(1.0)
    del step
    gc.collect()
    assert not unheard
