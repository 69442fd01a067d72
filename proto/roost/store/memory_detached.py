"""`roost.store.detached.DetachedSteps` in this process. Pure but for its clock."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from roost.contract.events import Event
from roost.contract.reasons import Reason
from roost.contract.steps import StepName
from roost.store.detached import (
    EVENTS_KEPT_MS,
    DetachedProgress,
    DetachedReport,
    DetachedState,
    DetachedStep,
    StepFailure,
)
from roost.store.refusals import refused

_NEWS_SECONDS = 0.1


@dataclass(slots=True)
class _Record:
    step: DetachedStep
    first_runner: bytes
    runner: bytes
    expiry_ms: int
    gone_ms: int
    state: DetachedState = DetachedState.QUEUED
    is_cancelled: bool = False
    failure: StepFailure | None = None
    events: list[Event] = field(default_factory=list)
    events_gone_ms: int = 0
    """0 while it runs."""


class MemoryDetachedSteps:
    """See the interface for what each call does."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock` gives the time in ms."""
        self._clock = clock
        self._records: dict[StepName, _Record] = {}

    async def begin(self, step: DetachedStep, runner: bytes, lease_ms: int) -> bool:
        now, former = self._clock(), self._living(step.name)
        if former is not None and not former.state.makes_room:
            return former.runner == runner
        self._records[step.name] = _Record(step, runner, runner, now + lease_ms, now + step.ttl_ms)
        return True

    async def context(self, name: StepName, tenant: str) -> Mapping[str, Any] | None:
        record = self._living(name, tenant)
        return None if record is None else record.step.context

    async def find(self, name: StepName, tenant: str) -> DetachedStep | None:
        record = self._living(name, tenant)
        return None if record is None else record.step

    async def read(self, name: StepName, tenant: str, first: int | None = None) -> DetachedProgress | None:
        now, record = self._clock(), self._living(name, tenant)
        if record is None:
            return None
        is_kept = not record.events_gone_ms or now < record.events_gone_ms
        return DetachedProgress(
            state=record.state,
            first_runner=record.first_runner,
            runner=record.runner,
            is_run=now < record.expiry_ms,
            is_cancelled=record.is_cancelled,
            logged=len(record.events),
            events=tuple(record.events[first:]) if is_kept and first is not None else (),
            failure=record.failure,
        )

    async def report(self, report: DetachedReport) -> bool:
        now, record = self._clock(), self._living(report.name)
        if record is None or record.runner != report.runner or len(record.events) < report.first:
            raise refused(Reason.ATTEMPT_FENCED)
        record.events += report.events[len(record.events) - report.first :]
        record.state, record.failure = report.state, report.failure
        record.expiry_ms = now + report.lease_ms if report.lease_ms else 0
        record.gone_ms = now + report.ttl_ms
        record.events_gone_ms = now + EVENTS_KEPT_MS if report.state.is_over else 0
        return record.is_cancelled

    async def take_over(self, name: StepName, former: bytes, runner: bytes, lease_ms: int) -> bool:
        now, record = self._clock(), self._living(name)
        if record is None or record.state.is_over:
            return False
        if record.runner == former and record.expiry_ms <= now:
            record.runner, record.expiry_ms = runner, now + lease_ms
        return record.runner == runner

    async def cancel(self, name: StepName, tenant: str) -> None:
        record = self._living(name, tenant)
        if record is not None and not record.state.is_over:
            record.is_cancelled = True

    async def forget(self, name: StepName) -> None:
        self._records.pop(name, None)

    async def news(self, name: StepName) -> AsyncGenerator[object, None]:
        while True:
            await asyncio.sleep(_NEWS_SECONDS)
            yield None

    def _living(self, name: StepName, tenant: str | None = None) -> _Record | None:
        """The record, or None when it does not exist, has expired, or is another tenant's than the given one."""
        record = self._records.get(name)
        if record is None or record.gone_ms <= self._clock() or tenant not in (None, record.step.tenant):
            return None
        return record
