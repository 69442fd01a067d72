"""The fake gateway's gRPC service over its sessions in memory."""

# ruff: noqa: N802  the names of the contract
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar

import grpc

from roost._fake_output import REVISION
from roost._fake_sessions import FakeRole, FakeSession, new_session
from roost._fake_step import BrokenStreamError, Mishap, StepRunner
from roost.contract import requests
from roost.contract.reasons import Reason
from roost.contract.refused import Refused, check
from roost.grpc_errors import abort
from roost.v1 import session_service_pb2 as pb
from roost.v1.session_service_pb2_grpc import SessionServiceServicer
from roost.wire import open_request_from_wire

Context = grpc.aio.ServicerContext[Any, Any]
_Response = TypeVar("_Response")


class FakeService(SessionServiceServicer):
    """SessionService in memory. Several servers may share one."""

    def __init__(
        self,
        runner: StepRunner,
        *,
        pool: str,
        roles: Sequence[FakeRole],
        api_keys: Mapping[str, str] | None,
    ) -> None:
        self._runner = runner
        self._pool = pool
        self._roles = {role.name: role for role in roles}
        self._default_role = roles[0].name
        self._api_keys = api_keys
        self._opened: dict[tuple[str, str], str] = {}
        self.sessions: dict[str, FakeSession] = {}
        self.mishaps: list[Mishap] = []
        self.revision, self.migrates = REVISION, True
        self.step_requests: list[pb.StepRequest] = []

    async def OpenSession(self, request: pb.OpenSessionRequest, context: Context) -> pb.OpenSessionResponse:
        return await self._answer(context, lambda tenant: self._open(request, tenant))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        return await self._answer(
            context, lambda tenant: pb.GetSessionResponse(session=self._find(request.session_id, tenant).describe())
        )

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        return await self._answer(context, lambda tenant: self._list(request, tenant))

    async def ListSteps(self, request: pb.ListStepsRequest, context: Context) -> pb.ListStepsResponse:
        return await self._answer(context, lambda tenant: self._list_steps(request, tenant))

    async def HoldSession(self, request: pb.HoldSessionRequest, context: Context) -> pb.HoldSessionResponse:
        return await self._answer(context, lambda tenant: self._hold(request, tenant))

    async def EvictSession(self, request: pb.EvictSessionRequest, context: Context) -> pb.EvictSessionResponse:
        return await self._answer(context, lambda tenant: self._evict(request, tenant))

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Context) -> pb.CloseSessionResponse:
        return await self._answer(context, lambda tenant: self._close(request, tenant))

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        return await self._answer(context, lambda tenant: self._delete(request, tenant))

    async def Step(self, request: pb.StepRequest, context: Context) -> AsyncIterator[pb.StepResponse]:
        self.step_requests.append(_copy(request))
        try:
            tenant = self._enter(context)
            session = self._find(request.session_id, tenant)
            events = self._runner.run(session, request, self._next_mishap(), self.revision, migrates=self.migrates)
            async for response in events:
                yield response
        except Refused as refusal:
            await abort(context, refusal)
        except BrokenStreamError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the fake gateway broke the stream, as it was told")

    def _next_mishap(self) -> Mishap:
        return self.mishaps.pop(0) if self.mishaps else Mishap()

    async def _answer(self, context: Context, act: Callable[[str], _Response]) -> _Response:
        try:
            return act(self._enter(context))
        except Refused as refusal:
            await abort(context, refusal)

    def _enter(self, context: Context) -> str:
        """The caller's tenant, unless a mishap refuses the call."""
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

    def _find(self, session_id: str, tenant: str) -> FakeSession:
        session = self.sessions.get(session_id)
        if session is None or session.tenant != tenant:
            raise Refused(Reason.SESSION_NOT_FOUND, "there is no such session")
        return session

    def _open(self, request: pb.OpenSessionRequest, tenant: str) -> pb.OpenSessionResponse:
        asked = open_request_from_wire(request)
        check(requests.open_session(asked))
        check(requests.schemas_of_tools(asked.tools), Reason.INVALID_SCHEMA)
        self._check_pool(request.pool)
        role = self._roles.get(request.role or self._default_role)
        if role is None:
            raise Refused(Reason.ROLE_NOT_FOUND, f"pool {self._pool!r} has no role {request.role!r}")
        if request.parent_session_id:
            self._find(request.parent_session_id, tenant)
        known = self._opened.get((tenant, request.request_id)) if request.request_id else None
        session = self.sessions.get(known or "") or new_session(request, self._pool, role, tenant, self.revision)
        self.sessions[session.record.id] = session
        self._opened[tenant, request.request_id] = session.record.id
        return pb.OpenSessionResponse(session=session.describe())

    def _list(self, request: pb.ListSessionsRequest, tenant: str) -> pb.ListSessionsResponse:
        self._check_pool(request.pool)
        check(requests.page_size(request.page_size, requests.MAX_PAGE_SESSIONS))
        size, response = request.page_size or 100, pb.ListSessionsResponse()
        for session_id in sorted(self.sessions):
            described = self.sessions[session_id].describe()
            if session_id <= request.page_token or not _selected(request, described):
                continue
            if self.sessions[session_id].tenant != tenant:
                continue
            if len(response.sessions) == size:
                response.next_page_token = response.sessions[-1].id
                break
            response.sessions.append(described)
        return response

    def _list_steps(self, request: pb.ListStepsRequest, tenant: str) -> pb.ListStepsResponse:
        session = self._find(request.session_id, tenant)
        logs = [log for _, log in session.older] + [session.log]
        if request.generation > len(logs):
            raise Refused(Reason.INVALID_REQUEST, f"generation: the session has {len(logs)}")
        log = logs[request.generation - 1]
        check(requests.page_size(request.page_size, requests.MAX_PAGE_STEPS))
        first, size = int(request.page_token or 0), request.page_size or 20
        response = pb.ListStepsResponse(steps=log[first : first + size])
        if not request.include_token_ids:
            for step in response.steps:
                step.ClearField("prompt_token_ids")
                step.ClearField("output_token_ids")
        if first + size < len(log):
            response.next_page_token = str(first + size)
        return response

    def _hold(self, request: pb.HoldSessionRequest, tenant: str) -> pb.HoldSessionResponse:
        session = self._find(request.session_id, tenant)
        check(requests.hold(request.tool, request.expect_seconds))
        session.check_open()
        session.check_idle()
        if request.HasField("expected_head"):
            session.check_head(request.expected_head)
        hold = session.record.hold
        hold.tool, hold.expect_seconds = request.tool, request.expect_seconds
        hold.begin_time.GetCurrentTime()
        return pb.HoldSessionResponse(session=session.describe())

    def _evict(self, request: pb.EvictSessionRequest, tenant: str) -> pb.EvictSessionResponse:
        session = self._find(request.session_id, tenant)
        evicted = session.evict()
        return pb.EvictSessionResponse(session=session.describe(), evicted_tokens=evicted)

    def _close(self, request: pb.CloseSessionRequest, tenant: str) -> pb.CloseSessionResponse:
        session = self._find(request.session_id, tenant)
        session.check_idle()
        session.record.state = pb.SESSION_STATE_CLOSED
        return pb.CloseSessionResponse(session=session.describe())

    def _delete(self, request: pb.DeleteSessionRequest, tenant: str) -> pb.DeleteSessionResponse:
        self._find(request.session_id, tenant).check_idle()
        del self.sessions[request.session_id]
        return pb.DeleteSessionResponse()


def _selected(request: pb.ListSessionsRequest, session: pb.Session) -> bool:
    """Whether a session passes the filters; an unset filter passes all."""
    return all(getattr(request, name) in (0, "", getattr(session, name)) for name in ("state", "tier", "role", "task"))


def _copy(request: pb.StepRequest) -> pb.StepRequest:
    copy = pb.StepRequest()
    copy.CopyFrom(request)
    return copy
