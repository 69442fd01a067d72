"""WorkerService on gRPC: authenticates callers, turns refusals into statuses, opens a span for each Generate stream."""

import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from opentelemetry.trace import Tracer

from roost.contract.refused import Refused
from roost.grpc_errors import abort
from roost.v1 import worker_service_pb2 as pb
from roost.v1 import worker_service_pb2_grpc as pb_grpc
from roost.wire_why import eviction_to_wire
from roost_worker.server import rebuild, refusals, trunk
from roost_worker.server.count_tokens import count_tokens
from roost_worker.server.generate import Context, generate
from roost_worker.server.render import render
from roost_worker.server.session_check import SessionChecks
from roost_worker.server.shell import Shell
from roost_worker.server.stages import RENDERING, of_request
from roost_worker.server.telemetry import generate_span, note_attempt
from roost_worker.server.trunk import Trunks, TrunkStream

LOG = logging.getLogger(__name__)
SECRET_KEY = "roost-pool-secret"
_Reply = TypeVar("_Reply")
_AnyContext = grpc.aio.ServicerContext[Any, Any]
_CallOrStream = _AnyContext | TrunkStream


class WorkerService(pb_grpc.WorkerServiceServicer):
    """Serves once `shell` is set; before that every call is UNAVAILABLE."""

    def __init__(self, pool_secret: str, tracer: Tracer, publish: Callable[[], Awaitable[object]]) -> None:
        """`publish` publishes residency at once, so that an eviction is visible when its call returns."""
        self.shell: Shell | None = None
        self.trunks = Trunks()
        self._checks = SessionChecks()
        self._secret, self._tracer, self._publish = pool_secret.encode(), tracer, publish

    async def Generate(  # type: ignore[override]  # noqa: N802  it reads and writes through the context
        self, request_iterator: AsyncIterator[pb.GenerateRequest], context: Context
    ) -> None:
        async def call(shell: Shell) -> None:
            with generate_span(self._tracer, context.invocation_metadata() or (), shell) as span:
                note_attempt(span, await generate(shell, context))

        await self._answer(context, call)

    async def Trunk(  # type: ignore[override]  # noqa: N802  it reads and writes through the context
        self, request_iterator: AsyncIterator[pb.TrunkRequest], context: trunk.Context
    ) -> None:
        await self._answer(context, lambda shell: self.trunks.serve(context, self.Generate))

    async def Rebuild(  # type: ignore[override]  # noqa: N802  it reads and writes through the context
        self, request_iterator: AsyncIterator[pb.RebuildRequest], context: rebuild.Context
    ) -> None:
        await self._answer(context, lambda shell: rebuild.rebuild(shell, context, self._publish))

    async def Evict(self, request: pb.EvictRequest, context: _AnyContext) -> pb.EvictResponse:  # noqa: N802
        async def call(shell: Shell) -> pb.EvictResponse:
            evicted = await shell.evict(request.session_id, request.epoch, erased=request.erased)
            await self._publish()
            return pb.EvictResponse(evicted_tokens=evicted)

        return await self._answer(context, call)

    async def RecallEviction(  # noqa: N802
        self, request: pb.RecallEvictionRequest, context: _AnyContext
    ) -> pb.RecallEvictionResponse:
        async def call(shell: Shell) -> pb.RecallEvictionResponse:
            eviction = shell.evictions.recall(request.session_id, time.monotonic())
            return pb.RecallEvictionResponse(eviction=None if eviction is None else eviction_to_wire(eviction))

        return await self._answer(context, call)

    async def Hold(self, request: pb.HoldRequest, context: _AnyContext) -> pb.HoldResponse:  # noqa: N802
        async def call(shell: Shell) -> pb.HoldResponse:
            shell.hold(request.session_id, request.tool, max(0.0, request.expect_seconds))
            return pb.HoldResponse()

        return await self._answer(context, call)

    async def Render(self, request: pb.RenderRequest, context: _AnyContext) -> pb.RenderResponse:  # noqa: N802
        async def call(shell: Shell) -> pb.RenderResponse:
            with of_request(RENDERING):
                return await render(shell, request)

        return await self._answer(context, call)

    async def CheckSession(  # noqa: N802
        self, request: pb.CheckSessionRequest, context: _AnyContext
    ) -> pb.CheckSessionResponse:
        return await self._answer(context, lambda shell: self._checks.check(shell, request))

    async def CountTokens(  # noqa: N802
        self, request: pb.CountTokensRequest, context: _AnyContext
    ) -> pb.CountTokensResponse:
        return await self._answer(context, lambda shell: count_tokens(shell, request))

    async def GetState(self, request: pb.GetStateRequest, context: _AnyContext) -> pb.GetStateResponse:  # noqa: N802
        async def call(shell: Shell) -> pb.GetStateResponse:
            return state_of(shell)

        return await self._answer(context, call)

    async def _answer(self, context: _CallOrStream, call: Callable[[Shell], Awaitable[_Reply]]) -> _Reply:
        try:
            self._check_secret(context)
            if self.shell is None:
                raise refusals.not_ready()
            return await call(self.shell)
        except Refused as error:
            refused = error
        except Exception:
            LOG.exception("a call failed")
            refused = refusals.failed()
        return await abort(context, refused)

    def _check_secret(self, context: _CallOrStream) -> None:
        sent = dict(context.invocation_metadata() or ()).get(SECRET_KEY, b"")
        if not hmac.compare_digest(sent if isinstance(sent, bytes) else sent.encode(), self._secret):
            raise refusals.wrong_secret()


def state_of(shell: Shell) -> pb.GetStateResponse:
    """Return the worker's state, for monitoring and debugging; gateways read the lease instead."""
    info, stats, residency = shell.engine.info, shell.stats, shell.residency
    return pb.GetStateResponse(
        worker_id=shell.identity.worker_id,
        boot=shell.identity.boot,
        model_revision=shell.identity.revision,
        capacity_tokens=info.capacity_tokens,
        block_tokens=info.block_tokens,
        blocks=pb.BlockCounts(free=stats.blocks_free, cached=stats.blocks_cached, in_use=stats.blocks_in_use),
        running=stats.running,
        waiting=stats.waiting,
        sessions=[
            pb.ResidentSession(
                session_id=session,
                cached_tokens=residency.on_device.get(session, 0),
                held=session in shell.held,
                warm_tokens=residency.in_host_memory.get(session, 0),
            )
            for session in {**residency.on_device, **residency.in_host_memory}
        ],
        draining=shell.draining,
        leaving=shell.leaving,
        lookup_tokens=stats.lookup_tokens,
        hit_tokens=stats.hit_tokens,
        generated_tokens=stats.generated_tokens,
        prefilled_tokens=stats.prefilled_tokens,
    )
