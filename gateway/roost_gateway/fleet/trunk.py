"""A gateway's end of a trunk: one call to a worker that carries all Generate streams (docs/contracts.md, "Trunk")."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio

from roost.gathering_writer import GatheringWriter
from roost.v1.worker_service_pb2 import (
    GenerateRequest,
    HalfClose,
    Leave,
    RequestFrame,
    ResponseFrame,
    StreamEnd,
    StreamOpening,
    TrunkRequest,
    TrunkResponse,
)
from roost_gateway.fleet.generate_call import GenerateReader, failure_of

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS_KEY = "grpc-status-details-bin"


class Trunk:
    """A Trunk call. Tasks of its own read and write it, so that a step that is cut off takes nothing of it along."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[Any, Any]") -> None:
        self._call = call
        self._writer = GatheringWriter[RequestFrame]()
        self._streams: dict[int, GenerateReader] = {}
        self._opened = 0
        """How many streams were opened, which is the number of the last one."""
        self._retired = False
        self._failure: grpc.aio.AioRpcError | None = None
        self._known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._known.add_done_callback(_observe)
        self._task = asyncio.create_task(self._carry(), name="carry steps to a worker")

    @property
    def is_usable(self) -> bool:
        """Whether streams can be opened on it."""
        return self._failure is None and not self._retired

    async def known(self) -> None:
        """Waits until the worker has answered. Raises AioRpcError, UNIMPLEMENTED if it knows no trunks."""
        await asyncio.shield(self._known)

    def open(self, metadata: Mapping[str, str], reader: GenerateReader) -> "TrunkStream":
        """Opens a stream on a usable trunk."""
        self._opened += 1
        self._streams[self._opened] = reader
        self.put(RequestFrame(stream=self._opened, opening=StreamOpening(metadata=metadata)))
        return TrunkStream(self, self._opened)

    def put(self, frame: RequestFrame) -> "asyncio.Future[bool]":
        """Writes a frame with all others that wait. The future says whether the connection has taken it."""
        return self._writer.put(frame)

    def is_open(self, number: int) -> bool:
        return number in self._streams

    def close_stream(self, number: int) -> None:
        """Takes nothing more of a stream."""
        self._streams.pop(number, None)
        self._finish_if_idle()

    def retire(self) -> None:
        """Opens no more streams. The call ends when none is open."""
        self._retired = True
        self._finish_if_idle()

    async def aclose(self) -> None:
        """Breaks it, and all streams on it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _finish_if_idle(self) -> None:
        if self._retired and not self._streams:
            self._writer.finish()

    async def _carry(self) -> None:
        writing = asyncio.create_task(self._write())
        failure = grpc.aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "the worker ended the trunk"
        )
        try:
            while isinstance(response := await self._call.read(), TrunkResponse):
                if not self._known.done():
                    self._known.set_result(None)
                for frame in response.frames:
                    self._take(frame)
            failure = await failure_of(self._call) or failure
        except grpc.aio.AioRpcError as raised:
            failure = raised
        finally:
            self._call.cancel()
            writing.cancel()
            self._break(failure)

    def _take(self, frame: ResponseFrame) -> None:
        reader = self._streams.get(frame.stream)
        if reader is None:
            return  # it was left while the frame was under way
        kind = frame.WhichOneof("frame")
        if kind == "message":
            reader.take(frame.message)
        elif kind == "end":
            self.close_stream(frame.stream)
            reader.ended(_error_of(frame.end))

    async def _write(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # `_carry` reads why it is over
            await self._writer.run(self._write_frames)
            await self._call.done_writing()

    async def _write_frames(self, frames: list[RequestFrame]) -> None:
        await self._call.write(TrunkRequest(frames=frames))

    def _break(self, failure: grpc.aio.AioRpcError) -> None:
        """Ends all streams."""
        self._failure = failure
        if not self._known.done():
            self._known.set_exception(failure)
        self._writer.end()
        streams, self._streams = self._streams, {}
        for reader in streams.values():
            reader.ended(failure)


class TrunkStream:
    """One stream of a trunk."""

    def __init__(self, trunk: Trunk, number: int) -> None:
        self._trunk, self._number = trunk, number

    async def write(self, request: GenerateRequest) -> bool:
        if not self._trunk.is_open(self._number):
            return False
        return await self._trunk.put(RequestFrame(stream=self._number, message=request))

    def done_writing(self) -> None:
        if self._trunk.is_open(self._number):
            self._trunk.put(RequestFrame(stream=self._number, half_close=HalfClose()))

    def leave(self) -> None:
        if self._trunk.is_open(self._number):
            self._trunk.put(RequestFrame(stream=self._number, leave=Leave()))
            self._trunk.close_stream(self._number)


def _error_of(end: StreamEnd) -> grpc.aio.AioRpcError | None:
    """The error with which a call of its own would have ended; None if it would have ended with OK."""
    code = _CODES.get(end.code, grpc.StatusCode.UNKNOWN)
    if code is grpc.StatusCode.OK:
        return None
    trailing = grpc.aio.Metadata((_DETAILS_KEY, end.details)) if end.details else grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, end.message)


def _observe(future: "asyncio.Future[None]") -> None:
    """No step may be left that waits for it."""
    if not future.cancelled():
        future.exception()
