"""What a null worker answers to questions before a step, whether a session may open, and how long a prompt is; and the
trunk, as a real worker serves it."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from null_script import Script, checked
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.grpc_errors import abort
from roost.v1 import worker_service_pb2 as wpb
from roost.v1.worker_service_pb2_grpc import WorkerServiceServicer
from roost_worker.server.trunk import Trunks

Context = grpc.aio.ServicerContext[Any, Any]
SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # gateways ping a silent trunk, as a real worker lets them
)


class NullChecks(WorkerServiceServicer):
    """The calls of a null worker that concern no session's log."""

    def __init__(self, script: Script, secret: str) -> None:
        self.script = script
        self.secret = secret
        self.checks: list[wpb.CheckSessionRequest] = []
        self.counts: list[wpb.CountTokensRequest] = []
        self._trunks = Trunks()

    async def _check_secret(self, context: Context) -> None:
        given = dict(context.invocation_metadata() or ()).get("roost-pool-secret", "")
        if given != self.secret:
            await abort(context, Refused(Reason.INVALID_API_KEY, "wrong pool secret"))

    async def Trunk(self, requests: AsyncIterator[wpb.TrunkRequest], context: Context) -> None:  # noqa: N802
        await self._check_secret(context)
        await self._trunks.serve(context, self.Generate)

    async def CheckSession(  # noqa: N802
        self, request: wpb.CheckSessionRequest, context: Context
    ) -> wpb.CheckSessionResponse:
        await self._check_secret(context)
        self.checks.append(request)
        if self.script.refuse_check is not None:
            await abort(context, self.script.refuse_check)
        return checked(request, self.script.unconstrained)

    async def CountTokens(  # noqa: N802
        self, request: wpb.CountTokensRequest, context: Context
    ) -> wpb.CountTokensResponse:
        """Counts a token for each byte of system text and messages."""
        await self._check_secret(context)
        self.counts.append(request)
        texts = (request.system, *(message.content for message in request.messages))
        return wpb.CountTokensResponse(tokens=sum(len(text.encode()) for text in texts))
