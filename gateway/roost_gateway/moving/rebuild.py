"""The call by which a worker computes a session's KV ahead of its next step."""

import asyncio
from enum import Enum
from typing import Any

import grpc
import grpc.aio

from roost.store.interface import SessionStore
from roost.store.records import Descriptor
from roost.v1.worker_service_pb2 import Pause, RebuildRequest, RebuildResponse, RebuildStart, SessionRef
from roost.wire import head_to_wire
from roost_gateway.fleet.worker_client import WorkerClients
from roost_gateway.routing.choice import WorkerState
from roost_gateway.step.worker_stream import SessionHistory


class RebuildFailure(Enum):
    """Why a worker did not rebuild a session."""

    TOO_OLD = "too old"  # the worker does not know the call
    NOT_NOW = "not now"  # it rebuilds others, or does not answer
    REFUSED = "refused"  # it does not rebuild this session


class RebuildError(Exception):
    """A worker did not rebuild a session."""

    def __init__(self, failure: RebuildFailure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


_FAILURES = {
    grpc.StatusCode.UNIMPLEMENTED: RebuildFailure.TOO_OLD,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RebuildFailure.NOT_NOW,
    grpc.StatusCode.UNAVAILABLE: RebuildFailure.NOT_NOW,
    grpc.StatusCode.DEADLINE_EXCEEDED: RebuildFailure.NOT_NOW,
}


async def rebuild(
    session: Descriptor,
    worker: WorkerState,
    clients: WorkerClients,
    store: SessionStore,
    seconds: float,
    *,
    paused_seconds: float | None = None,
) -> int:
    """Has a worker compute the KV of a session's log, within `seconds`. Returns how many tokens it computed.

    With `paused_seconds`, how long the session has been on hold, it is ahead of the session's return: the worker does
    it only while it has nothing else to do.

    Raises RebuildError, StoreAwayError.
    """
    stub, metadata = clients.channel(worker.address).stub, clients.metadata(session.pool)
    call: grpc.aio.StreamStreamCall[Any, Any] = stub.Rebuild(metadata=metadata, timeout=seconds)
    history = SessionHistory(store, session)
    try:
        await call.write(RebuildRequest(start=_start(session, paused_seconds)))
        while True:
            response: RebuildResponse | Any = await call.read()
            if response is grpc.aio.EOF:
                raise await _ended(call)
            if response.WhichOneof("message") == "rebuilt":
                return int(response.rebuilt.prefilled_tokens)
            async for run in history.runs(response.need_history.from_token):
                await call.write(RebuildRequest(history=run))
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:  # the latter from a write after the call's end
        raise await _ended(call) from error
    finally:
        call.cancel()


async def _ended(call: "grpc.aio.StreamStreamCall[Any, Any]") -> RebuildError:
    code = await call.code()
    failure = _FAILURES.get(code, RebuildFailure.REFUSED)
    return RebuildError(failure, f"{code.name}: {await call.details()}")


def _start(session: Descriptor, paused_seconds: float | None) -> RebuildStart:
    head, hold, pause = head_to_wire(session.head), session.hold, None
    if hold is not None and paused_seconds is not None:
        pause = Pause(seconds_ago=paused_seconds, expect_seconds=hold.expect_seconds, tool=hold.tool)
    return RebuildStart(
        session=SessionRef(session_id=session.session_id, generation=session.generation, head=head),
        tenant=session.tenant,
        model_revision=session.model_revision,
        epoch=session.epoch,
        pause=pause,
        role=session.role,
    )
