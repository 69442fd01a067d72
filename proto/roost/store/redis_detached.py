"""`roost.store.detached.DetachedSteps` in Redis."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from roost.contract.steps import StepName
from roost.store.arguments import accepted, pool_keys
from roost.store.detached import (
    EVENTS_KEPT_MS,
    DetachedProgress,
    DetachedReport,
    DetachedState,
    DetachedStep,
)
from roost.store.detached_codec import (
    decode_context,
    decode_event,
    decode_failure,
    decode_request,
    encode_context,
    encode_event,
    encode_failure,
    encode_request,
)
from roost.store.keys import DetachedKeys
from roost.store.link import RedisLink
from roost.store.scripts import Arg, Call
from roost.store.wakes import Wakes

_NO_EVENTS = -1


class RedisDetachedSteps:
    """See the interface for what each call does."""

    def __init__(self, link: RedisLink, wakes: Wakes) -> None:
        self._link = link
        self._wakes = wakes

    async def begin(self, step: DetachedStep, runner: bytes, lease_ms: int) -> bool:
        keys = _keys(step.name)
        call = Call(
            {"record": keys.record, "events": keys.events},
            {
                "tenant": step.tenant,
                "runner": runner.hex(),
                "request": encode_request(step.request),
                "context": encode_context(step.context),
                "lease_ms": lease_ms,
                "ttl_ms": step.ttl_ms,
            },
        )
        return bool(await self._link.script("detached_begin", call))

    async def context(self, name: StepName, tenant: str) -> Mapping[str, Any] | None:
        owner, context = await self._link.run("HMGET", _keys(name).record, "tenant", "context")
        return decode_context(context) if owner == tenant.encode() else None

    async def find(self, name: StepName, tenant: str) -> DetachedStep | None:
        fields = ("tenant", "request", "context", "ttl")
        owner, request, context, ttl_ms = await self._link.run("HMGET", _keys(name).record, *fields)
        if owner != tenant.encode():
            return None
        return DetachedStep(decode_request(request), tenant, decode_context(context), int(ttl_ms))

    async def read(self, name: StepName, tenant: str, first: int | None = None) -> DetachedProgress | None:
        keys = _keys(name)
        args: dict[str, Arg] = {"tenant": tenant, "first": _NO_EVENTS if first is None else first}
        reply = await self._link.script("detached_read", Call({"record": keys.record, "events": keys.events}, args))
        if not reply:
            return None
        state, first_runner, runner, is_run, is_cancelled, logged, failure, *events = reply
        decoded = (decode_event(name.step_id, event) for event in events)
        return DetachedProgress(
            state=DetachedState(state.decode()),
            first_runner=bytes.fromhex(first_runner.decode()),
            runner=bytes.fromhex(runner.decode()),
            is_run=bool(is_run),
            is_cancelled=bool(is_cancelled),
            logged=logged,
            events=tuple(event for event in decoded if event is not None),
            failure=decode_failure(failure),
        )

    async def report(self, report: DetachedReport) -> bool:
        keys = _keys(report.name)
        call = Call(
            {"record": keys.record, "events": keys.events, "news": keys.news},
            {
                "runner": report.runner.hex(),
                "state": report.state.value,
                "failure": encode_failure(report.failure),
                "first": report.first,
                "lease_ms": report.lease_ms,
                "ttl_ms": report.ttl_ms,
                "events_ttl_ms": EVENTS_KEPT_MS if report.state.is_over else report.ttl_ms,
            },
            more_args=[encode_event(event) for event in report.events],
        )
        return bool(accepted(await self._link.script("detached_report", call))[1])

    async def take_over(self, name: StepName, former: bytes, runner: bytes, lease_ms: int) -> bool:
        args: dict[str, Arg] = {"former": former.hex(), "runner": runner.hex(), "lease_ms": lease_ms}
        return bool(await self._link.script("detached_take", Call({"record": _keys(name).record}, args)))

    async def cancel(self, name: StepName, tenant: str) -> None:
        keys = _keys(name)
        call = Call({"record": keys.record, "news": keys.news}, {"tenant": tenant})
        await self._link.script("detached_cancel", call)

    async def forget(self, name: StepName) -> None:
        keys = _keys(name)
        await self._link.run("DEL", keys.record, keys.events)

    def news(self, name: StepName) -> AsyncGenerator[object, None]:
        return self._wakes.of(_keys(name).news)


def _keys(name: StepName) -> DetachedKeys:
    return pool_keys(name.session_id).detached(name.session_id, name.step_id)
