"""The gateway's gRPC server: session service, health, reflection."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from roost.store.interface import SessionStore
from roost.v1 import session_service_pb2
from roost.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from roost_gateway.config import ConfigError, GatewayConfig, split_address
from roost_gateway.core.life import reach_store, start_parts, stop_parts
from roost_gateway.core.parts import Parts
from roost_gateway.front.credentials import Authenticator
from roost_gateway.front.interceptors import CallInterceptor
from roost_gateway.front.service import SessionService
from roost_gateway.telemetry import Telemetry

log = logging.getLogger(__name__)

SERVICE_NAME = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name
_CANCEL_SECONDS = 1.0
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class GatewayServer:
    """One gateway that listens. `start`, then `stop`; `address` is where it can be reached."""

    def __init__(self, config: GatewayConfig, telemetry: Telemetry | None = None) -> None:
        """Raises ConfigError for a key file that cannot be read."""
        self._config = config
        self._telemetry = telemetry or Telemetry(config.gateway_id)
        self._service = SessionService(Authenticator(config.api_keys_file))
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._parts: Parts | None = None
        self._opening: asyncio.Task[None] | None = None
        self._stop_metrics: Callable[[], None] | None = None
        self._is_serving: bool | None = None
        self._health_task: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self.address = ""
        self.metrics_port: int | None = None
        self.opened = asyncio.Event()
        """Set when the store has been reached and pools and workers have been read once."""

    async def start(self) -> None:
        """Binds and answers; the store is reached in the background. Raises ConfigError when the port is taken."""
        host, port = split_address(self._config.listen)
        self._server = self._make_server()
        try:
            bound = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise ConfigError(f"listen: {self._config.listen} cannot be bound; choose another port") from error
        self._start_metrics(host)
        self.address = f"{host}:{bound}"
        await self._tell_health(serving=False)
        await self._server.start()
        self._opening = asyncio.create_task(self._open(), name="reach the store")

    def _make_server(self) -> grpc.aio.Server:
        config = self._config
        options: list[tuple[str, int]] = [
            ("grpc.max_receive_message_length", 2 * config.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        if config.max_connection_age_seconds:
            options.append(("grpc.max_connection_age_ms", int(config.max_connection_age_seconds * 1000)))
        server = grpc.aio.server(
            interceptors=[CallInterceptor(self._telemetry, config.max_message_bytes)], options=options
        )
        add_SessionServiceServicer_to_server(self._service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection([SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        return server

    def _start_metrics(self, host: str) -> None:
        port = self._config.metrics_port
        if port is None:
            return
        try:
            self.metrics_port, self._stop_metrics = self._telemetry.serve(host, port)
        except OSError as error:
            raise ConfigError(f"metrics_port: {port} cannot be bound: {error.strerror}; choose another") from error

    async def _open(self) -> None:
        store: SessionStore = await reach_store(self._config.store_url)
        self._parts = await start_parts(self._config, store, self._telemetry, self._workers_changed)
        self._service.open(self._parts)
        self._workers_changed()
        self.opened.set()

    def _workers_changed(self) -> None:
        ready = self._parts is not None and self._parts.fleet.ready and not self._ended.is_set()
        if ready != self._is_serving:
            self._health_task = asyncio.create_task(self._tell_health(serving=ready))

    async def _tell_health(self, *, serving: bool) -> None:
        if serving != self._is_serving:
            log.info("health: %s", "SERVING" if serving else "NOT_SERVING until the store and a worker are there")
        self._is_serving = serving
        status = _SERVING if serving else _NOT_SERVING
        await self._health.set("", status)
        await self._health.set(SERVICE_NAME, status)

    async def wait(self) -> None:
        """Returns when `stop` has been called. Raises ValueError when the store's URL is none."""
        if self._opening is not None:
            await asyncio.shield(self._opening)
        await self._ended.wait()

    async def stop(self, drain_seconds: float | None = None) -> None:
        """NOT_SERVING at once, no new calls; running steps may finish for a while, then they are left as orphans for
        another gateway to resume."""
        seconds = self._config.drain_seconds if drain_seconds is None else drain_seconds
        self._ended.set()
        await self._health.enter_graceful_shutdown()
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
        if self._server is not None:
            await self._drain(self._server, seconds)
        if self._opening is not None:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._opening
        if self._health_task is not None:
            await self._health_task
        if self._parts is not None:
            await stop_parts(self._parts)
        if self._stop_metrics is not None:
            await asyncio.to_thread(self._stop_metrics)
        self._telemetry.close()

    async def _drain(self, server: grpc.aio.Server, seconds: float) -> None:
        stopping = asyncio.create_task(server.stop(seconds + _CANCEL_SECONDS))
        done, _ = await asyncio.wait([stopping], timeout=seconds)
        if not done and self._parts is not None:
            self._service.close()
        await stopping
