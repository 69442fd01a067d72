"""The way to one worker: its channel, its stub, and the trunk for its steps."""

import logging
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from roost.addresses import NO_PROXY
from roost.gathering_writer import BATCH_BYTES
from roost.v1.worker_service_pb2_grpc import WorkerServiceStub
from roost_gateway.fleet.generate_call import GenerateCall, GenerateReader, PlainCall
from roost_gateway.fleet.trunk import Trunk

if TYPE_CHECKING:  # the stub of grpc.aio has a type of its own, but no class
    from roost.v1.worker_service_pb2_grpc import WorkerServiceAsyncStub

log = logging.getLogger(__name__)

Metadata = list[tuple[str, str]]
SECRET_KEY = "roost-pool-secret"
LONG_BYTES = BATCH_BYTES
"""A stream that begins with a longer message has a call of its own: it holds up no other stream while it is sent, and
breaks none if the worker refuses a message of that length."""
_CLOSE_SECONDS = 600.0
_OPTIONS = (
    NO_PROXY,
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # gRPC's limit of a connect: a dead machine does not refuse
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # else gRPC waits 60 s for a ping, whatever the line above says
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
)


class WorkerChannel:
    """A channel to one worker, and what is called on it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self.stub: WorkerServiceAsyncStub = WorkerServiceStub(self._channel)
        self._trunks: dict[str, Trunk] = {}
        """By the pool's secret, with which a trunk is opened."""
        self._boot_without_trunks: str | None = None
        """The start of the worker that has answered that it knows none. It is asked again at its next start: a worker
        that is upgraded in place keeps its address, and so this channel."""
        self._retired = False

    async def generate(
        self, secret: str, trace: Metadata, reader: GenerateReader, first_bytes: int, boot: str
    ) -> GenerateCall | None:
        """Opens a Generate stream, on the trunk if the worker knows trunks and its first message, of `first_bytes`, is
        not long. `boot` is the worker's start, of its lease. Returns None if the channel was retired.

        Raises AioRpcError.
        """
        while boot != self._boot_without_trunks and not self._retired and first_bytes <= LONG_BYTES:
            trunk = self._trunk(secret)
            try:
                await trunk.known()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
                log.info("the worker at %s is older than this gateway: each step has a call of its own", self.address)
                self._boot_without_trunks = boot
            else:
                if trunk.is_usable:
                    return trunk.open(dict(trace), reader)
        if self._retired:
            return None
        return PlainCall(self.stub.Generate(metadata=[(SECRET_KEY, secret), *trace]), reader)

    def _trunk(self, secret: str) -> Trunk:
        trunk = self._trunks.get(secret)
        if trunk is None or not trunk.is_usable:
            trunk = self._trunks[secret] = Trunk(self.stub.Trunk(metadata=[(SECRET_KEY, secret)]))
        return trunk

    async def retire(self) -> None:
        """Opens no more streams, waits for the calls that run, then closes the channel."""
        self._retired = True
        for trunk in self._trunks.values():
            trunk.retire()
        try:
            await self._channel.close(_CLOSE_SECONDS)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Breaks what runs."""
        for trunk in self._trunks.values():
            await trunk.aclose()
        await self._channel.close(0)
