"""SessionService over gRPC: converts requests, calls the core, and converts what it returns."""

# ruff: noqa: N802  the names of the contract
from typing import Any

import grpc.aio

from roost import wire, wire_steps
from roost.v1 import session_service_pb2 as pb
from roost.v1.session_service_pb2_grpc import SessionServiceServicer
from roost.wire_budgets import extension_from_wire
from roost_gateway.core.caller import Caller
from roost_gateway.core.life import GatewayRuntime
from roost_gateway.front.credentials import Authenticator

Context = grpc.aio.ServicerContext[Any, Any]


class SessionService(SessionServiceServicer):
    """The public service. Errors are raised; `CallInterceptor` turns them into statuses."""

    def __init__(self, life: GatewayRuntime, authenticator: Authenticator) -> None:
        self._life = life
        self._authenticator = authenticator

    def _caller(self, context: Context) -> Caller:
        return self._authenticator.identify(context.invocation_metadata() or ())

    async def OpenSession(self, request: pb.OpenSessionRequest, context: Context) -> pb.OpenSessionResponse:
        caller, left = self._caller(context), context.time_remaining()
        session = await self._life.gateway.open(wire.open_request_from_wire(request), caller, left)
        return pb.OpenSessionResponse(session=wire.session_to_wire(session))

    async def ForkSession(self, request: pb.ForkSessionRequest, context: Context) -> pb.ForkSessionResponse:
        caller, left = self._caller(context), context.time_remaining()
        session = await self._life.gateway.fork(wire.fork_request_from_wire(request), caller, left)
        return pb.ForkSessionResponse(session=wire.session_to_wire(session))

    async def FoldSession(self, request: pb.FoldSessionRequest, context: Context) -> pb.FoldSessionResponse:
        caller, left = self._caller(context), context.time_remaining()
        session = await self._life.gateway.fold(wire.fold_request_from_wire(request), caller, left)
        return pb.FoldSessionResponse(session=wire.session_to_wire(session))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        session = await self._life.gateway.get(request.session_id, self._caller(context))
        return pb.GetSessionResponse(session=wire.session_to_wire(session))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        page = await self._life.gateway.list(wire.session_query_from_wire(request), self._caller(context))
        return pb.ListSessionsResponse(
            sessions=map(wire.session_to_wire, page.sessions), next_page_token=page.next_page_token
        )

    async def ListSteps(self, request: pb.ListStepsRequest, context: Context) -> pb.ListStepsResponse:
        page = await self._life.gateway.list_steps(
            request.session_id,
            self._caller(context),
            generation=request.generation,
            page_size=request.page_size,
            page_token=request.page_token,
            first_index=request.first_index,
            include_token_ids=request.include_token_ids,
        )
        return pb.ListStepsResponse(
            steps=map(wire_steps.logged_step_to_wire, page.steps), next_page_token=page.next_page_token
        )

    async def HoldSession(self, request: pb.HoldSessionRequest, context: Context) -> pb.HoldSessionResponse:
        head = wire.head_from_wire(request.expected_head) if request.HasField("expected_head") else None
        session = await self._life.gateway.hold(
            request.session_id, request.tool, request.expect_seconds, head, self._caller(context)
        )
        return pb.HoldSessionResponse(session=wire.session_to_wire(session))

    async def EvictSession(self, request: pb.EvictSessionRequest, context: Context) -> pb.EvictSessionResponse:
        session, tokens = await self._life.gateway.evict(request.session_id, self._caller(context))
        return pb.EvictSessionResponse(session=wire.session_to_wire(session), evicted_tokens=tokens)

    async def ExtendBudget(self, request: pb.ExtendBudgetRequest, context: Context) -> pb.ExtendBudgetResponse:
        session = await self._life.gateway.extend_budget(extension_from_wire(request), self._caller(context))
        return pb.ExtendBudgetResponse(session=wire.session_to_wire(session))

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Context) -> pb.CloseSessionResponse:
        session = await self._life.gateway.close(request.session_id, self._caller(context))
        return pb.CloseSessionResponse(session=wire.session_to_wire(session))

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        await self._life.gateway.delete(request.session_id, self._caller(context))
        return pb.DeleteSessionResponse()

    async def Step(self, request: pb.StepRequest, context: Context) -> None:  # type: ignore[override]  # writes itself
        caller, left = self._caller(context), context.time_remaining()
        async with self._life.gateway.step(wire_steps.step_request_from_wire(request), caller, left) as events:
            async for event in events:
                await context.write(wire_steps.event_to_wire(event))
