"""SessionService over gRPC: who calls, and what they are answered."""

# ruff: noqa: N802  the names of the contract
import asyncio
import time
from typing import Any

import grpc
import grpc.aio

from roost.contract import requests
from roost.contract.events import Delta
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, check
from roost.fault_points import fault_point
from roost.store.records import StoreUnavailableError
from roost.v1 import session_service_pb2 as pb
from roost.v1.session_service_pb2_grpc import SessionServiceServicer
from roost_gateway.core.parts import Parts
from roost_gateway.core.pressure import Pressure
from roost_gateway.core.sessions import Sessions
from roost_gateway.fleet.pools import require_open
from roost_gateway.front.credentials import Authenticator, Identity
from roost_gateway.front.steps import event_to_wire, step_request_from_wire
from roost_gateway.step.call import StepCall
from roost_gateway.step.steps import RunningStep

Context = grpc.aio.ServicerContext[Any, Any]


class SessionService(SessionServiceServicer):
    """The public service. Errors are raised; the interceptor tells them. UNAVAILABLE until `open`."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._running: set[RunningStep] = set()
        self._opened: tuple[Parts, Sessions] | None = None

    def open(self, parts: Parts) -> None:
        """The store has been reached: from now on calls are answered."""
        self._opened = parts, Sessions(parts)

    def close(self) -> None:
        """Cuts running steps off. Their clients are told to try elsewhere, where the orphans are resumed."""
        for step in self._running:
            step.abandon()

    @property
    def _parts(self) -> Parts:
        if self._opened is None:
            raise StoreUnavailableError("the store has not been reached since the start")
        return self._opened[0]

    @property
    def _sessions(self) -> Sessions:
        if self._opened is None:
            raise StoreUnavailableError("the store has not been reached since the start")
        return self._opened[1]

    async def OpenSession(self, request: pb.OpenSessionRequest, context: Context) -> pb.OpenSessionResponse:
        return pb.OpenSessionResponse(session=await self._sessions.open(request, self._caller(context)))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        return pb.GetSessionResponse(session=await self._sessions.get(request.session_id, self._caller(context)))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        return await self._sessions.list_sessions(request, self._caller(context))

    async def ListSteps(self, request: pb.ListStepsRequest, context: Context) -> pb.ListStepsResponse:
        return await self._sessions.list_steps(request, self._caller(context))

    async def HoldSession(self, request: pb.HoldSessionRequest, context: Context) -> pb.HoldSessionResponse:
        return pb.HoldSessionResponse(session=await self._sessions.hold(request, self._caller(context)))

    async def EvictSession(self, request: pb.EvictSessionRequest, context: Context) -> pb.EvictSessionResponse:
        return await self._sessions.evict(request, self._caller(context))

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Context) -> pb.CloseSessionResponse:
        return pb.CloseSessionResponse(session=await self._sessions.close(request.session_id, self._caller(context)))

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        await self._sessions.delete(request.session_id, self._caller(context))
        return pb.DeleteSessionResponse()

    async def Step(self, request: pb.StepRequest, context: Context) -> None:  # type: ignore[override]  # writes itself
        """Relays the events of a step that is driven by a task of its own."""
        call = await self._check_step(request, self._caller(context), context.time_remaining())
        step = self._parts.steps.start(call)
        self._running.add(step)
        try:
            async with asyncio.timeout(self._own_limit(context)):
                await _relay(step, context, self._parts.pressure)
        except TimeoutError:
            if not step.committing:
                raise _late() from None
            await _relay(step, context, self._parts.pressure)
        finally:
            self._running.discard(step)
            step.leave()
        try:
            await step.ended()
        except asyncio.CancelledError:
            if step.abandoned:
                raise Refused(
                    Reason.WORKER_DRAINING, "this gateway is stopping; go on at another", retry_seconds=0.0
                ) from None
            raise

    def _own_limit(self, context: Context) -> float | None:
        """Seconds after which the gateway ends a step itself; None when gRPC will, at the client's deadline."""
        return self._parts.config.step_timeout_seconds if context.time_remaining() is None else None

    def _caller(self, context: Context) -> Identity:
        return self._authenticator.identify(context.invocation_metadata() or ())

    async def _check_step(self, request: pb.StepRequest, caller: Identity, seconds_left: float | None) -> StepCall:
        now = time.monotonic()
        pool_name = self._sessions.check_id(request.session_id, caller)
        check(requests.step(request))
        check(requests.schema_of_step(request), Reason.INVALID_SCHEMA)
        facts = await self._parts.facts.get(request.session_id, caller.tenant)
        pool = await self._parts.fleet.pools.get(pool_name)
        require_open(pool)
        role = pool.role(facts.role)
        check(requests.step_of_role(request, role))
        deadline = now + (self._parts.config.step_timeout_seconds if seconds_left is None else seconds_left)
        return StepCall(step_request_from_wire(request), caller.tenant, pool, role, facts, now, deadline)


async def _relay(step: RunningStep, context: Context, pressure: Pressure) -> None:
    async for event in step.events():
        await context.write(event_to_wire(event))
        if isinstance(event, Delta):
            fault_point("gateway.delta.sent")
            if pressure.rest:
                await step.rest(pressure.rest)


def _late() -> Refused:
    return Refused(Reason.DEADLINE_EXCEEDED, "the step took longer than step_timeout_seconds")
