"""A worker's end of a trunk: one call that carries the Generate streams of a gateway (docs/contracts.md, "Trunk")."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio

from roost.contract.refused import invalid
from roost.gathering_writer import GatheringWriter
from roost.v1 import worker_service_pb2 as pb

LOG = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[pb.TrunkRequest, pb.TrunkResponse]
_Metadata = tuple[tuple[str, str | bytes], ...]
_DETAILS_KEY = "grpc-status-details-bin"


class TrunkStream:
    """One stream of a trunk. It does what a Generate call's own context would do."""

    def __init__(self, number: int, metadata: _Metadata, writer: GatheringWriter[pb.ResponseFrame]) -> None:
        self._number, self._metadata, self._writer = number, metadata, writer
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self.status = pb.StreamEnd()
        """With what it ends, unless an exception ends it."""

    def invocation_metadata(self) -> _Metadata:
        """The trunk's metadata, then the stream's own."""
        return self._metadata

    def take(self, request: pb.GenerateRequest) -> None:
        """Take the gateway's next message. What waits is bounded by what was asked for: at most a log."""
        self._requests.put_nowait(request)

    def half_close(self) -> None:
        """The gateway sends nothing more."""
        self._requests.put_nowait(grpc.aio.EOF)

    async def read(self) -> pb.GenerateRequest | Any:
        """Return the gateway's next message, or `grpc.aio.EOF` once after the last."""
        return await self._requests.get()

    async def requests(self) -> AsyncIterator[pb.GenerateRequest]:
        """Yield the gateway's messages, as `read` returns them."""
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    async def write(self, message: pb.GenerateResponse) -> None:
        """Send a message; return once gRPC has taken it."""
        await self._writer.put(pb.ResponseFrame(stream=self._number, message=message))

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """End the stream with a status. Raise `grpc.aio.AbortError`."""
        rich = dict(trailing_metadata).get(_DETAILS_KEY, b"")
        self.status = _status(code, details, rich if isinstance(rich, bytes) else rich.encode())
        raise grpc.aio.AbortError("the stream was aborted")

    def end(self) -> None:
        """Send the status."""
        self._writer.put(pb.ResponseFrame(stream=self._number, end=self.status))


Generate = Callable[[AsyncIterator[pb.GenerateRequest], TrunkStream], Awaitable[None]]
"""Serves one stream, as the handler of a Generate call does."""


class Trunks:
    """The trunks of a worker's gateways."""

    def __init__(self) -> None:
        self._open: set[_Trunk] = set()

    async def serve(self, context: Context, generate: Generate) -> None:
        """Serve one trunk, until the gateway half-closes it or `finish` is called, and no stream is open.

        Raise Refused when the gateway breaks the order of frames. Then, and when the trunk breaks, all streams break.
        """
        trunk = _Trunk(context, generate)
        self._open.add(trunk)
        try:
            await trunk.serve()
        finally:
            self._open.discard(trunk)

    def finish(self) -> None:
        """Open no more streams: the worker stops. A trunk ends with its last stream."""
        for trunk in self._open:
            trunk.finish()


class _Trunk:
    def __init__(self, context: Context, generate: Generate) -> None:
        self._context, self._generate = context, generate
        self._metadata: _Metadata = tuple(context.invocation_metadata() or ())
        self._writer = GatheringWriter[pb.ResponseFrame]()
        self._streams: dict[int, tuple[TrunkStream, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """Of the streams, those that are being broken included."""
        self._last = 0
        """Number of the stream that was opened last."""
        self._finishing = False
        self._complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(self) -> None:
        writing = asyncio.create_task(self._write(), name="write to a gateway's trunk")
        reading = asyncio.create_task(self._read(), name="read a gateway's trunk")
        for task in (writing, reading):
            task.add_done_callback(self._observe)
        try:
            await self._complete
            self._writer.finish()
            await writing
        except grpc.aio.BaseError as error:  # of a call that is over
            LOG.info("the trunk of a gateway broke: %s", error)
        finally:
            self._writer.end()
            tasks = [writing, reading, *self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def finish(self) -> None:
        self._finishing = True
        self._complete_if_idle()

    async def _write(self) -> None:
        await self._context.write(pb.TrunkResponse())  # by which the gateway knows that trunks are known here
        await self._writer.run(self._write_frames)

    async def _write_frames(self, frames: list[pb.ResponseFrame]) -> None:
        await self._context.write(pb.TrunkResponse(frames=frames))

    async def _read(self) -> None:
        while isinstance(request := await self._context.read(), pb.TrunkRequest):
            for frame in request.frames:
                self._take(frame)
        for stream, _ in self._streams.values():
            stream.half_close()
        self.finish()

    def _take(self, frame: pb.RequestFrame) -> None:
        kind = frame.WhichOneof("frame")
        if kind == "opening":
            self._open(frame.stream, frame.opening.metadata)
            return
        if frame.stream > self._last:
            raise invalid([("frames.stream", f"stream {frame.stream} is not open; send StreamOpening first")])
        if frame.stream not in self._streams:
            return  # it ended while the frame was under way
        stream, task = self._streams[frame.stream]
        match kind:
            case "message":
                stream.take(frame.message)
            case "half_close":
                stream.half_close()
            case "leave":
                del self._streams[frame.stream]
                task.cancel()

    def _open(self, number: int, metadata: Mapping[str, str]) -> None:
        if number <= self._last:
            raise invalid([("frames.stream", f"stream {number} is not new; count streams upwards from {self._last}")])
        self._last = number
        stream = TrunkStream(number, (*self._metadata, *metadata.items()), self._writer)
        if self._finishing:
            stream.status = _status(grpc.StatusCode.UNAVAILABLE, "the worker stops")
            stream.end()
            return
        task = asyncio.create_task(self._run(stream), name=f"stream {number} of a trunk")
        self._streams[number] = stream, task
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._ended(number, task))

    async def _run(self, stream: TrunkStream) -> None:
        try:
            await self._generate(stream.requests(), stream)
        except grpc.aio.AbortError:
            pass  # with the stream's status
        except Exception as error:
            LOG.exception("a stream failed")
            stream.status = _status(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}")
        stream.end()

    def _ended(self, number: int, task: "asyncio.Task[None]") -> None:
        self._streams.pop(number, None)
        self._tasks.discard(task)
        self._complete_if_idle()

    def _complete_if_idle(self) -> None:
        if self._finishing and not self._tasks and not self._complete.done():
            self._complete.set_result(None)

    def _observe(self, task: "asyncio.Task[None]") -> None:
        """End the trunk with the error with which its reading or its writing ended."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._complete.done():
            self._complete.set_exception(error)


def _status(code: grpc.StatusCode, message: str, details: bytes = b"") -> pb.StreamEnd:
    number: int = code.value[0]
    return pb.StreamEnd(code=number, message=message, details=details)
