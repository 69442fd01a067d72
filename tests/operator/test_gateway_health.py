"""`roost up` asks its processes for their health without the proxy that the environment names."""

import grpc.aio
import pytest
from grpc_health.v1 import health as servicers
from grpc_health.v1 import health_pb2, health_pb2_grpc

from roost_operator.local.health import health


async def test_health_checks_ignore_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    checks = servicers.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert await health(f"127.0.0.1:{port}") is True
    await server.stop(None)
