"""Channels to the gateways, and calls that go to another gateway when one fails."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from roost._faults import from_rpc_error
from roost._retry import Patience, RetryConfig
from roost._telemetry import Metadata, trace_metadata
from roost.addresses import NO_PROXY, is_internal
from roost.errors import RoostError, StepCancelledError, UnavailableError
from roost.v1.session_service_pb2_grpc import SessionServiceStub

if TYPE_CHECKING:  # the stub of an aio channel has no class of its own at run time
    from roost.v1.session_service_pb2_grpc import SessionServiceAsyncStub

_Response = TypeVar("_Response")

MAX_MESSAGE_BYTES = 64 << 20
_CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    # The SDK retries by itself: gRPC knows neither how much of a step has arrived nor what an error means.
    ("grpc.enable_retries", 0),
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # A gateway that is cut off or hangs is given up within 20 s; a call has 30. By default gRPC waits 60 s for the
    # answer to a ping, and sends few pings while a stream is silent.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
]


@dataclass(frozen=True, slots=True)
class TLSConfig:
    """TLS to the gateways. Certificates and key are PEM; by default the system's roots and no client certificate."""

    root_certificates: bytes | None = None
    client_certificate: bytes | None = None
    client_key: bytes | None = None
    server_name: str | None = None
    """Name in the gateway's certificate, when it differs from the target's host."""

    def __post_init__(self) -> None:
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError("TLSConfig needs client_certificate and client_key together")


class Gateway:
    """A target and its channel."""

    def __init__(self, target: str, tls: TLSConfig | None) -> None:
        self.target = target
        self.channel = _channel(target, tls)
        self.stub: SessionServiceAsyncStub = SessionServiceStub(self.channel)

    async def reachable(self) -> bool:
        """Waits for the end of the first try to connect. Returns whether it succeeded."""
        state = self.channel.get_state(try_to_connect=True)
        while state not in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE):
            await self.channel.wait_for_state_change(state)
            state = self.channel.get_state(try_to_connect=True)
        return state is grpc.ChannelConnectivity.READY


def _channel(target: str, tls: TLSConfig | None) -> grpc.aio.Channel:
    options = [*_CHANNEL_OPTIONS, NO_PROXY] if is_internal(target) else _CHANNEL_OPTIONS
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    credentials = grpc.ssl_channel_credentials(tls.root_certificates, tls.client_key, tls.client_certificate)
    named = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else []
    return grpc.aio.secure_channel(target, credentials, options=options + named)


class Transport:
    """All gateways of a client. Calls go to the current one until it fails, then to the next in the circle."""

    def __init__(
        self, targets: Sequence[str], *, tls: TLSConfig | None, api_key: str | None, timeout: float, retry: RetryConfig
    ) -> None:
        self.gateways = [Gateway(target, tls) for target in targets]
        self.retry = retry
        self.timeout = timeout
        self._current = 0
        self._closed = False
        self._authorization: Metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()

    @property
    def current(self) -> Gateway:
        """The gateway that calls go to. Raises RuntimeError when the client is closed."""
        if self._closed:
            raise RuntimeError("the client is closed; make another with `Client.connect`")
        return self.gateways[self._current]

    def failed(self, gateway: Gateway) -> None:
        """Moves on from `gateway`, unless another call has done so already."""
        if self.gateways[self._current] is gateway:
            self._current = (self._current + 1) % len(self.gateways)

    def metadata(self, trace: Metadata) -> Metadata:
        return self._authorization + trace

    def patience(self, deadline: float | None, straggler_seconds: float) -> Patience:
        """`Patience` for a call with `deadline` seconds, None for no deadline."""
        end = None if deadline is None else time.monotonic() + deadline
        return Patience(self.retry, len(self.gateways), end, straggler_seconds)

    async def call(
        self,
        method: "Callable[[SessionServiceAsyncStub], grpc.aio.UnaryUnaryMultiCallable[Any, _Response]]",
        request: Any,
        straggler_seconds: float = 0.0,
        timeout: float | None = None,
    ) -> _Response:
        """Makes a unary call, and retries it while that can help. `timeout`, in seconds: for all tries; None: that of
        all calls.

        Raises RoostError, and RuntimeError when the client is closed.
        """
        patience, tries = self.patience(self.timeout if timeout is None else timeout, straggler_seconds), 1
        metadata = self.metadata(trace_metadata())
        while True:
            gateway = self.current
            try:
                remaining = patience.remaining(time.monotonic())
                with self.cut_off_by_close():
                    return await method(gateway.stub)(request, timeout=remaining, metadata=metadata)
            except grpc.aio.AioRpcError as failure:
                error = from_rpc_error(failure)
            error.tries = tries
            await self.recover(gateway, error, patience)
            tries += 1

    async def recover(self, gateway: Gateway, error: RoostError, patience: Patience) -> None:
        """After a failure, moves on to another gateway and waits, or raises `error`."""
        wait = patience.wait_after(error, time.monotonic())
        if wait is None:
            raise error
        if isinstance(error, UnavailableError):
            self.failed(gateway)
        await asyncio.sleep(wait)

    async def connect(self, timeout: float) -> None:
        """Makes the first reachable gateway the current one. Raises UnavailableError after `timeout` seconds."""
        tries = [asyncio.ensure_future(gateway.reachable()) for gateway in self.gateways]
        try:
            async with asyncio.timeout(timeout):
                for index, reachable in enumerate(tries):
                    if await reachable:
                        self._current = index
                        return
        except TimeoutError:
            pass
        finally:
            for reachable in tries:
                reachable.cancel()
            await asyncio.gather(*tries, return_exceptions=True)
        raise self._unreachable()

    def _unreachable(self) -> UnavailableError:
        targets = ", ".join(gateway.target for gateway in self.gateways)
        return UnavailableError(
            f"no gateway answers at {targets}; check the address, and that it is running",
            status=grpc.StatusCode.UNAVAILABLE,
        )

    @contextmanager
    def cut_off_by_close(self) -> Iterator[None]:
        """Turns the cancellation of a call by `close` into StepCancelledError: nobody cancelled the calling task."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            raise StepCancelledError(
                "the client was closed during the call", status=grpc.StatusCode.CANCELLED
            ) from None

    async def close(self) -> None:
        """Closes the channels, which ends all calls. Closing again changes nothing."""
        self._closed = True
        await asyncio.gather(*(gateway.channel.close() for gateway in self.gateways))
