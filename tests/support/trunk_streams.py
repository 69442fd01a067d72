"""Generate streams on a trunk, opened by the gateway's own end of it, with the face of gRPC's calls."""

import asyncio
from typing import Any, Self

import grpc
import grpc.aio

from roost.v1 import worker_service_pb2 as pb
from roost.v1.worker_service_pb2_grpc import WorkerServiceStub
from roost_gateway.fleet.trunk import Trunk, TrunkStream
from worker_harness import SECRET


class TrunkCall:
    """Implements GenerateReader, and what the tests use of a `grpc.aio.StreamStreamCall`."""

    def __init__(self, trunk: Trunk, metadata: dict[str, str]) -> None:
        self._came: asyncio.Queue[Any] = asyncio.Queue()
        self._stream: TrunkStream = trunk.open(metadata, self)

    def take(self, response: pb.GenerateResponse) -> None:
        self._came.put_nowait(response)

    def ended(self, error: grpc.aio.AioRpcError | None) -> None:
        self._came.put_nowait(error or grpc.aio.EOF)

    async def write(self, request: pb.GenerateRequest) -> None:
        await self._stream.write(request)

    async def done_writing(self) -> None:
        self._stream.done_writing()

    def cancel(self) -> None:
        self._stream.leave()

    async def read(self) -> Any:
        response = await self._came.get()
        if isinstance(response, grpc.aio.AioRpcError):
            raise response
        return response

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK  # with another one `read` raises


class TrunkStub:
    """Stands in for a worker's stub: its Generate calls are streams of one trunk. Use as a context manager."""

    def __init__(self, address: str, secret: str = SECRET) -> None:
        self._address, self._secret = address, secret

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._address)
        self.trunk = Trunk(WorkerServiceStub(self._channel).Trunk(metadata=[("roost-pool-secret", self._secret)]))
        try:
            await self.trunk.known()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.trunk.aclose()
        await self._channel.close()

    def Generate(self, metadata: Any, timeout: float) -> TrunkCall:  # noqa: N802  the stub's name
        return TrunkCall(self.trunk, {key: value for key, value in metadata if key != "roost-pool-secret"})
