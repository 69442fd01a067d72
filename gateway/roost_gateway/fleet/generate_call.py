"""A Generate stream as its step sees it, whatever carries it; and the plain call, for workers that know no trunk."""

import asyncio
from contextlib import suppress
from typing import Any, Protocol

import grpc
import grpc.aio

from roost.gathering_writer import GatheringWriter
from roost.v1.worker_service_pb2 import GenerateRequest, GenerateResponse


class GenerateReader(Protocol):
    """Takes what comes on a Generate stream. Neither method may raise."""

    def take(self, response: GenerateResponse) -> None:
        """Takes the worker's next message."""

    def ended(self, error: grpc.aio.AioRpcError | None) -> None:
        """The stream is over, with an error or with OK. It is called once, unless the stream was left."""


class GenerateCall(Protocol):
    """The writing side of a Generate stream."""

    async def write(self, request: GenerateRequest) -> bool:
        """Sends a message. Returns whether a connection has taken it; if not, the stream is over. The message is sent
        also if the caller is cancelled while it waits."""

    def done_writing(self) -> None:
        """Closes this side, after what was written before."""

    def leave(self) -> None:
        """Breaks the stream. The reader hears nothing more."""


async def failure_of(call: "grpc.aio.StreamStreamCall[Any, Any]") -> grpc.aio.AioRpcError | None:
    """The error with which a call ended; None if it ended with OK."""
    code = await call.code()
    if code is grpc.StatusCode.OK:
        return None
    initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
    return grpc.aio.AioRpcError(code, initial, trailing, await call.details())


def broken(why: str) -> grpc.aio.AioRpcError:
    """The error of a call that broke without a status of the worker."""
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), why)


class PlainCall:
    """A stream that is a gRPC call of its own. Tasks of its own read and write, since cancelling a pending read or
    write would cancel the call."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[Any, Any]", reader: GenerateReader) -> None:
        self._call, self._reader = call, reader
        self._writer = GatheringWriter[GenerateRequest]()
        self._is_left = False
        self._tasks = asyncio.create_task(self._read()), asyncio.create_task(self._write())

    async def write(self, request: GenerateRequest) -> bool:
        return await self._writer.put(request)

    def done_writing(self) -> None:
        self._writer.finish()

    def leave(self) -> None:
        self._is_left = True
        self._writer.end()
        self._call.cancel()

    async def _read(self) -> None:
        error: grpc.aio.AioRpcError | None = broken("the channel to the worker was closed")
        try:
            while isinstance(response := await self._call.read(), GenerateResponse) and not self._is_left:
                self._reader.take(response)
            error = await failure_of(self._call)
        except grpc.aio.AioRpcError as raised:
            error = raised
        finally:  # a channel that is closed cancels its calls
            self._writer.end()
            if not self._is_left:
                self._reader.ended(error)

    async def _write(self) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the call is over, and its reader hears why
            await self._writer.run(self._write_all)
            await self._call.done_writing()
        self._writer.end()

    async def _write_all(self, requests: list[GenerateRequest]) -> None:
        for request in requests:
            await self._call.write(request)
