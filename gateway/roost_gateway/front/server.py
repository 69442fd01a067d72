"""A gateway process: its core, the fronts that serve it, metrics, and the order of start and stop."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from roost_gateway.config import ConfigError, GatewayConfig, split_address
from roost_gateway.core.life import GatewayRuntime
from roost_gateway.front.credentials import Authenticator
from roost_gateway.front.grpc_server import GrpcServer
from roost_gateway.front.http.app import create_app
from roost_gateway.front.http.calls import HttpFront
from roost_gateway.front.http.server import HttpServer
from roost_gateway.front.service import SessionService
from roost_gateway.telemetry import Telemetry

log = logging.getLogger(__name__)


class GatewayServer:
    """One gateway that listens. `start`, then `stop`; `address` is where it can be reached."""

    def __init__(self, config: GatewayConfig, telemetry: Telemetry | None = None) -> None:
        """Raises ConfigError for a key file that cannot be read."""
        self._config = config
        self._telemetry = telemetry or Telemetry(config.gateway_id)
        self._authenticator = Authenticator(config.api_keys_file)
        self._grpc: GrpcServer | None = None
        self._http: HttpServer | None = None
        self._opening: asyncio.Task[None] | None = None
        self._stop_metrics: Callable[[], None] | None = None
        self._is_serving: bool | None = None
        self._health_task: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self.life = GatewayRuntime(config, self._telemetry, self._core_changed)
        self.address = ""
        self.http_address = ""
        """Where the HTTP APIs can be reached; empty when they are not served."""
        self.metrics_port: int | None = None
        self.opened = asyncio.Event()
        """Set when the store has been reached and pools and workers have been read once."""

    async def start(self) -> None:
        """Binds and answers; the store is reached in the background. Raises ConfigError when a port is taken."""
        service = SessionService(self.life, self._authenticator)
        self._grpc = GrpcServer(self._config, service, self._telemetry)
        self._start_metrics()
        self.address = await self._grpc.start()
        if self._config.http_listen:
            app, max_age = create_app(self._http_front()), self._config.max_connection_age_seconds
            self._http = HttpServer(app, self._config.http_listen, max_age)
            self.http_address = await self._http.start()
        await self._report_health(serving=False)
        self._opening = asyncio.create_task(self._open(), name="reach the store")

    def _http_front(self) -> HttpFront:
        config = self._config
        return HttpFront(
            self.life, self._authenticator, self._telemetry, config.max_message_bytes, config.http_session_headers
        )

    def _start_metrics(self) -> None:
        port = self._config.metrics_port
        if port is None:
            return
        host, _ = split_address(self._config.listen)
        try:
            self.metrics_port, self._stop_metrics = self._telemetry.serve(host, port)
        except OSError as error:
            raise ConfigError(f"metrics_port: {port} cannot be bound: {error.strerror}; choose another") from error

    async def _open(self) -> None:
        await self.life.open()
        self.opened.set()

    def _core_changed(self) -> None:
        if self.life.ready != self._is_serving:
            self._health_task = asyncio.create_task(self._report_health(serving=self.life.ready))

    async def _report_health(self, *, serving: bool) -> None:
        if serving != self._is_serving:
            log.info("health: %s", "SERVING" if serving else "NOT_SERVING until the store and a worker are there")
        self._is_serving = serving
        if self._grpc is not None:
            await self._grpc.report(serving=serving)

    async def wait(self) -> None:
        """Returns when `stop` has been called. Raises ValueError when the store's URL is invalid."""
        if self._opening is not None:
            await asyncio.shield(self._opening)
        await self._ended.wait()

    async def stop(self, drain_seconds: float | None = None) -> None:
        """NOT_SERVING at once, no new calls. Running steps may finish for `drain_seconds`, by default the configured
        ones; then they are left as orphans, which another gateway resumes."""
        self._ended.set()
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
        await self._drain(self._config.drain_seconds if drain_seconds is None else drain_seconds)
        if self._opening is not None:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._opening
        if self._health_task is not None:
            await self._health_task
        await self.life.aclose()
        if self._stop_metrics is not None:
            await asyncio.to_thread(self._stop_metrics)
        self._telemetry.close()

    async def _drain(self, seconds: float) -> None:
        fronts = [front for front in (self._grpc, self._http) if front is not None]
        stopping = [asyncio.create_task(front.stop(seconds)) for front in fronts]
        finishing = asyncio.create_task(self.life.finish_detached())
        _, running = await asyncio.wait([*stopping, finishing], timeout=seconds)
        if running:
            self.life.cut_off()
        finishing.cancel()  # `life.aclose` waits for the steps that are left, for as long as a hand-over may take
        await asyncio.gather(*stopping)
