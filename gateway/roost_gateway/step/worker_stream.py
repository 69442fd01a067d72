"""One Generate stream to a worker: what is sent, what comes back, and why it failed."""

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import grpc
import grpc.aio

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.fault_points import fault_point
from roost.grpc_errors import details_of
from roost.v1 import session_service_pb2 as pb
from roost.v1.worker_service_pb2 import (
    Accepted,
    Cancel,
    Commit,
    Delta,
    Finished,
    GenerateRequest,
    GenerateResponse,
)
from roost_gateway.fleet.worker_client import WorkerChannel
from roost_gateway.step.history import SessionHistory

log = logging.getLogger(__name__)

PARTING_SECONDS = 2.0
"""How long a worker has to take a Cancel or Commit in."""


class Failure(StrEnum):
    """Why a worker did not finish a step, as far as the way on depends on it."""

    LOST = "lost"  # the stream broke
    BUSY = "busy"  # draining, full, or of another revision
    UNKNOWN_ATTEMPT = "unknown_attempt"  # nothing there to resume
    FAULTY = "faulty"  # the worker failed on this step


class WorkerFailureError(Exception):
    """The stream ended before Finished; another worker may go on."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class Generation:
    """A Generate stream that has begun. `take` is given Accepted and each Delta; then `commit`, `cancel` or `leave` it.

    It is read by a task of its own: cancelling a pending read would cancel the whole call, before the worker could be
    told anything.
    """

    def __init__(
        self,
        channel: WorkerChannel,
        metadata: list[tuple[str, str | bytes]],
        first: GenerateRequest,
        history: SessionHistory,
        take: Callable[[Accepted | Delta], None],
    ) -> None:
        self._first = first
        self._history = history
        self._take = take
        self._call: grpc.aio.StreamStreamCall[Any, Any] = channel.stub.Generate(metadata=metadata)
        self._reader = asyncio.create_task(self._read(), name="read a worker's output")
        self._reader.add_done_callback(_observe)

    async def finished(self) -> Finished:
        """Waits for the end. Raises WorkerFailureError, Refused for what no other worker can do better,
        StoreUnavailableError when the log could not be read, and whatever `take` raises."""
        return await asyncio.shield(self._reader)

    async def _read(self) -> Finished:
        try:
            await self._call.write(self._first)
            while True:
                response: GenerateResponse | Any = await self._call.read()
                if response is grpc.aio.EOF:
                    raise await self._ended()
                kind = response.WhichOneof("message")
                if kind == "delta":
                    self._take(response.delta)
                elif kind == "accepted":
                    self._take(response.accepted)
                elif kind == "need_history":
                    await self._send_history(response.need_history.from_token)
                elif kind == "finished":
                    finished: Finished = response.finished
                    return finished
        except grpc.aio.AioRpcError as error:
            raise classify(error) from error
        except asyncio.InvalidStateError as error:  # a write after the stream's end; its status says why
            raise await self._ended() from error

    async def _ended(self) -> Exception:
        code = await self._call.code()
        if code == grpc.StatusCode.OK:
            return WorkerFailureError(Failure.LOST, "the worker ended the stream before Finished")
        trailing = await self._call.trailing_metadata()
        initial = await self._call.initial_metadata()
        return classify(grpc.aio.AioRpcError(code, initial, trailing, await self._call.details()))

    async def _send_history(self, start: int) -> None:
        async for run in self._history.runs(start):
            await self._call.write(GenerateRequest(history=run))
        fault_point("gateway.history.sent")

    async def commit(self, head: pb.Head) -> None:
        """Tells the worker that the step is durable. A worker that is gone by now rebuilds it from the log."""
        await self._part(GenerateRequest(commit=Commit(head=head)))

    async def cancel(self) -> None:
        """Stops the attempt and frees what it holds."""
        await self._part(GenerateRequest(cancel=Cancel()))

    def leave(self) -> None:
        """Breaks the stream: the attempt goes on as an orphan, for whoever resumes it."""
        self._call.cancel()

    async def _part(self, last: GenerateRequest) -> None:
        """Sends the last message, and reads to the end, so that the stream is not torn down before it is taken in."""
        try:
            async with asyncio.timeout(PARTING_SECONDS):
                await self._call.write(last)
                await self._call.done_writing()
        except (TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            log.info("a worker did not take the end of an attempt in: %s", error)
            self._call.cancel()
        await self._drain()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(PARTING_SECONDS):
                await asyncio.wait([self._reader])
                while await self._call.read() is not grpc.aio.EOF:
                    pass
        except (TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self._call.cancel()


def _observe(reader: "asyncio.Task[Finished]") -> None:
    """A stream that was cancelled or left ends with an error that nobody waits for any more."""
    if not reader.cancelled():
        reader.exception()


def classify(error: grpc.aio.AioRpcError) -> WorkerFailureError | Refused:
    """What a worker's status means for the step: go elsewhere, or tell the client."""
    code, message, details = error.code(), error.details() or "", details_of(error)
    reason = Reason(details.reason) if details.reason in Reason.__members__ else None
    if reason in _BUSY or code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return WorkerFailureError(Failure.BUSY, message)
    if reason is Reason.ATTEMPT_UNKNOWN:
        return WorkerFailureError(Failure.UNKNOWN_ATTEMPT, message)
    if reason is not None and reason in _FOR_THE_CLIENT:
        return Refused(reason, message, retry_seconds=details.retry_seconds, violations=details.violations)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        log.error("a worker refuses this gateway's pool secret; give both the same: %s", message)
        return WorkerFailureError(Failure.FAULTY, message)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN):
        return WorkerFailureError(Failure.LOST, message)
    return WorkerFailureError(Failure.FAULTY, f"{code.name}: {message}")


_BUSY = (
    Reason.WORKER_DRAINING,
    Reason.NO_WORKER,
    Reason.QUEUE_FULL,
    Reason.QUEUE_TIMEOUT,
    Reason.MODEL_REVISION_MISMATCH,
)
_FOR_THE_CLIENT = (
    Reason.INVALID_REQUEST,
    Reason.INVALID_SCHEMA,
    Reason.STEP_TOO_LONG,
    Reason.ATTEMPT_FENCED,
    Reason.DEADLINE_EXCEEDED,
)
