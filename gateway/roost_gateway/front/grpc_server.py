"""The gRPC door: session service, health, reflection."""

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from roost.addresses import join_address
from roost.v1 import session_service_pb2
from roost.v1.session_service_pb2_grpc import add_SessionServiceServicer_to_server
from roost_gateway.config import ConfigError, GatewayConfig, split_address
from roost_gateway.front.interceptors import CallInterceptor
from roost_gateway.front.service import SessionService
from roost_gateway.telemetry import Telemetry

SERVICE_NAME = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name
_CANCEL_SECONDS = 1.0
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class GrpcServer:
    """Serves the session service at `config.listen`. It must be created within a running event loop."""

    def __init__(self, config: GatewayConfig, service: SessionService, telemetry: Telemetry) -> None:
        self._config = config
        self._health = health.aio.HealthServicer()
        interceptor = CallInterceptor(telemetry, config.max_message_bytes)
        self._server = grpc.aio.server(interceptors=[interceptor], options=_options(config))
        add_SessionServiceServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> str:
        """Binds and answers, NOT_SERVING. Returns the address. Raises ConfigError when the port is taken."""
        host, port = split_address(self._config.listen)
        try:
            bound = self._server.add_insecure_port(join_address(host, port))
        except RuntimeError as error:
            raise ConfigError(f"listen: {self._config.listen} cannot be bound; choose another port") from error
        await self.report(serving=False)
        await self._server.start()
        return join_address(host, bound)

    async def report(self, *, serving: bool) -> None:
        """Sets what health checks answer."""
        status = _SERVING if serving else _NOT_SERVING
        await self._health.set("", status)
        await self._health.set(SERVICE_NAME, status)

    async def stop(self, seconds: float) -> None:
        """NOT_SERVING and no new calls at once; running ones are cancelled after `seconds`, and a moment."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(seconds + _CANCEL_SECONDS)


def _options(config: GatewayConfig) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", 2 * config.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if config.max_connection_age_seconds:
        options.append(("grpc.max_connection_age_ms", int(config.max_connection_age_seconds * 1000)))
    return options
