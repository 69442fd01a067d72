"""The fake gateway's gRPC service over the store in memory."""

# ruff: noqa: N802  the names of the contract
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import grpc

from roost import wire, wire_steps
from roost._fake_fold import fold
from roost._fake_step import WORKER, BrokenStreamError, Mishap, StepRunner
from roost.contract import requests
from roost.contract.lease import WorkerLease
from roost.contract.loghash import unpack_ids
from roost.contract.names import new_session_id
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, check
from roost.grpc_errors import abort
from roost.store.budget_requests import checked_extension
from roost.store.forks import fork_session
from roost.store.records import Descriptor, NewSession
from roost.store.residency import Residency
from roost.store.views import logged_step, session_info
from roost.v1 import session_service_pb2 as pb
from roost.v1.session_service_pb2_grpc import SessionServiceServicer
from roost.wire_budgets import extension_from_wire

Context = grpc.aio.ServicerContext[Any, Any]
_Response = TypeVar("_Response")
_PLENTY, _ALL = 2**50, 2**31


class FakeService(SessionServiceServicer):
    """SessionService over a store in memory, with one worker that is always there. Several servers may share one."""

    def __init__(self, runner: StepRunner, *, api_keys: Mapping[str, str] | None) -> None:
        self._runner = runner
        self._store = runner.store
        self._pool = runner.pool.pool
        self._api_keys = api_keys
        self.mishaps: list[Mishap] = []
        self.step_requests: list[pb.StepRequest] = []
        lease = WorkerLease(WORKER, "", "", "fake", "", capacity_tokens=_PLENTY, max_running=_PLENTY)
        self._store.publish(self._pool, lease, _PLENTY)

    async def OpenSession(self, request: pb.OpenSessionRequest, context: Context) -> pb.OpenSessionResponse:
        return await self._answer(context, lambda tenant: self._open(request, tenant))

    async def ForkSession(self, request: pb.ForkSessionRequest, context: Context) -> pb.ForkSessionResponse:
        return await self._answer(context, lambda tenant: self._fork(request, tenant))

    async def FoldSession(self, request: pb.FoldSessionRequest, context: Context) -> pb.FoldSessionResponse:
        return await self._answer(context, lambda tenant: self._fold(request, tenant))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        return await self._answer(context, lambda tenant: self._get(request, tenant))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        return await self._answer(context, lambda tenant: self._list(request, tenant))

    async def ListSteps(self, request: pb.ListStepsRequest, context: Context) -> pb.ListStepsResponse:
        return await self._answer(context, lambda tenant: self._list_steps(request, tenant))

    async def HoldSession(self, request: pb.HoldSessionRequest, context: Context) -> pb.HoldSessionResponse:
        return await self._answer(context, lambda tenant: self._hold(request, tenant))

    async def EvictSession(self, request: pb.EvictSessionRequest, context: Context) -> pb.EvictSessionResponse:
        return await self._answer(context, lambda tenant: self._evict(request, tenant))

    async def ExtendBudget(self, request: pb.ExtendBudgetRequest, context: Context) -> pb.ExtendBudgetResponse:
        return await self._answer(context, lambda tenant: self._extend(request, tenant))

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Context) -> pb.CloseSessionResponse:
        return await self._answer(context, lambda tenant: self._close(request, tenant))

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        return await self._answer(context, lambda tenant: self._delete(request, tenant))

    async def Step(self, request: pb.StepRequest, context: Context) -> AsyncIterator[pb.StepResponse]:
        copy = pb.StepRequest()
        copy.CopyFrom(request)
        self.step_requests.append(copy)
        try:
            descriptor = await self._store.get(request.session_id, await self._enter(context))
            mishap = self.mishaps.pop(0) if self.mishaps else Mishap()
            async for event in self._runner.run(descriptor, wire_steps.step_request_from_wire(request), mishap):
                yield wire_steps.event_to_wire(event)
        except Refused as refusal:
            await abort(context, refusal)
        except BrokenStreamError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the fake gateway broke the stream, as the test asked")

    def roll_back(self, session_id: str, steps: int) -> None:
        """The store forgets the session's last steps. Raises KeyError when there is no such session."""
        session = self._store.sessions[session_id]
        session.roll_back(steps)
        self._store.publish_cached(session_id, WORKER, min(self._cached(session_id), session.record.head.length))

    async def _answer(self, context: Context, act: Callable[[str], Awaitable[_Response]]) -> _Response:
        try:
            return await act(await self._enter(context))
        except Refused as refusal:
            await abort(context, refusal)

    async def _enter(self, context: Context) -> str:
        """The caller's tenant, unless a mishap refuses the call."""
        await self._runner.renew()
        if self.mishaps and self.mishaps[0].refusal is not None:
            raise self.mishaps.pop(0).refusal  # type: ignore[misc]  # checked above
        if self._api_keys is None:
            return "default"
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        tenant = self._api_keys.get(str(given).removeprefix("Bearer "))
        if tenant is None:
            raise Refused(Reason.INVALID_API_KEY, "the API key is unknown")
        return tenant

    def _check_pool(self, pool: str) -> None:
        if pool in ("", self._pool):
            return
        if self._api_keys is not None:
            raise Refused(Reason.POOL_NOT_ALLOWED, f"this API key may not use pool {pool!r}")
        raise Refused(Reason.POOL_NOT_FOUND, f"there is no pool {pool!r}")

    def _cached(self, session_id: str) -> int:
        """Tokens of the session's log whose KV "is there"."""
        return self._store.pool(self._pool).residency.get(WORKER, {}).get(session_id, 0)

    def _describe(self, descriptor: Descriptor) -> pb.Session:
        cached = self._cached(descriptor.published_as)
        residency = Residency(WORKER, cached) if cached else None
        return wire.session_to_wire(session_info(descriptor, self._runner.pool, residency))

    async def _open(self, request: pb.OpenSessionRequest, tenant: str) -> pb.OpenSessionResponse:
        asked, pool = wire.open_request_from_wire(request), self._runner.pool
        check(requests.open_session(asked))
        check(requests.schemas_of_tools(asked.tools), Reason.INVALID_SCHEMA)
        self._check_pool(asked.pool)
        role = asked.role or pool.roles[0].name
        if role not in [known.name for known in pool.roles]:
            raise Refused(Reason.ROLE_NOT_FOUND, f"pool {self._pool!r} has no role {role!r}")
        parent_task = (await self._store.get(asked.parent, tenant)).task if asked.parent else ""
        self._runner.check_opening(asked.system, [tool.name for tool in asked.tools])
        new = NewSession(
            session_id=new_session_id(self._pool),
            tenant=tenant,
            role=role,
            model=pool.model,
            model_revision=pool.active_revision,
            system=asked.system,
            tools=tuple(
                {"name": tool.name, "description": tool.description, "parameters": tool.parameters_json, "keyword": ""}
                for tool in asked.tools
            ),
            task=asked.task or parent_task,
            parent=asked.parent,
            labels=dict(asked.labels),
            request_id=asked.request_id,
        )
        return pb.OpenSessionResponse(session=self._describe(await self._store.open(new)))

    async def _fork(self, request: pb.ForkSessionRequest, tenant: str) -> pb.ForkSessionResponse:
        asked = wire.fork_request_from_wire(request)
        check(requests.fork_session(asked))
        return pb.ForkSessionResponse(session=self._describe(await fork_session(self._store, asked, tenant)))

    async def _fold(self, request: pb.FoldSessionRequest, tenant: str) -> pb.FoldSessionResponse:
        asked = wire.fold_request_from_wire(request)
        descriptor = await self._store.get(asked.session_id, tenant)
        check(requests.fold_session(asked))
        await fold(self._runner, descriptor, asked)
        return pb.FoldSessionResponse(session=self._describe(await self._store.get(asked.session_id, tenant)))

    async def _get(self, request: pb.GetSessionRequest, tenant: str) -> pb.GetSessionResponse:
        return pb.GetSessionResponse(session=self._describe(await self._store.get(request.session_id, tenant)))

    async def _list(self, request: pb.ListSessionsRequest, tenant: str) -> pb.ListSessionsResponse:
        self._check_pool(request.pool)
        check(requests.page_size(request.page_size, requests.MAX_PAGE_SESSIONS))
        size = request.page_size or 100
        own = await self._store.list_sessions(self._pool, tenant, request.page_token, _ALL)
        sessions = [session for session in map(self._describe, own) if _selected(request, session)]
        for session in sessions:
            session.ClearField("tools")
        more = sessions[size - 1].id if len(sessions) > size else ""
        return pb.ListSessionsResponse(sessions=sessions[:size], next_page_token=more)

    async def _list_steps(self, request: pb.ListStepsRequest, tenant: str) -> pb.ListStepsResponse:
        descriptor = await self._store.get(request.session_id, tenant)
        generation = request.generation or descriptor.generation
        if generation > descriptor.generation:
            raise Refused(Reason.INVALID_REQUEST, f"generation: the session has {descriptor.generation}")
        check(requests.page_size(request.page_size, requests.MAX_PAGE_STEPS))
        first, size = int(request.page_token or request.first_index), request.page_size or 20
        entries = await self._store.log(descriptor.session_id, generation, first, size + 1)
        response = pb.ListStepsResponse(next_page_token=str(first + size) if len(entries) > size else "")
        for entry in entries[:size]:
            end = entry.head.length if request.include_token_ids else entry.start
            ids = await self._store.ids(descriptor.session_id, generation, entry.start, end)
            response.steps.append(wire_steps.logged_step_to_wire(logged_step(entry, generation, unpack_ids(ids))))
        return response

    async def _hold(self, request: pb.HoldSessionRequest, tenant: str) -> pb.HoldSessionResponse:
        await self._store.get(request.session_id, tenant)
        check(requests.hold(request.tool, request.expect_seconds))
        head = wire.head_from_wire(request.expected_head) if request.HasField("expected_head") else None
        descriptor = await self._store.hold(
            request.session_id, tenant, request.tool, request.expect_seconds, head, head.generation if head else 0
        )
        return pb.HoldSessionResponse(session=self._describe(descriptor))

    async def _evict(self, request: pb.EvictSessionRequest, tenant: str) -> pb.EvictSessionResponse:
        descriptor, _ = await self._store.evict(request.session_id, tenant)
        evicted = self._cached(request.session_id)
        self._store.publish_cached(request.session_id, WORKER, 0)
        return pb.EvictSessionResponse(session=self._describe(descriptor), evicted_tokens=evicted)

    async def _extend(self, request: pb.ExtendBudgetRequest, tenant: str) -> pb.ExtendBudgetResponse:
        extension = extension_from_wire(request)
        descriptor = await self._store.get(extension.session_id, tenant)
        check(requests.extend_budget(extension))
        extended = await self._store.extend(checked_extension(extension, descriptor, self._runner.pool))
        return pb.ExtendBudgetResponse(session=self._describe(extended))

    async def _close(self, request: pb.CloseSessionRequest, tenant: str) -> pb.CloseSessionResponse:
        return pb.CloseSessionResponse(session=self._describe(await self._store.close(request.session_id, tenant)))

    async def _delete(self, request: pb.DeleteSessionRequest, tenant: str) -> pb.DeleteSessionResponse:
        await self._store.delete(request.session_id, tenant)
        return pb.DeleteSessionResponse()


def _selected(request: pb.ListSessionsRequest, session: pb.Session) -> bool:
    """Whether a session passes the filters; an unset filter passes all."""
    return all(getattr(request, name) in (0, "", getattr(session, name)) for name in ("state", "tier", "role", "task"))
