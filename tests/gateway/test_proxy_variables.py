"""A gateway reaches its workers, and the probe its gateways, without the proxy that the environment names."""

from collections.abc import AsyncIterator

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gateway_driver import LIMIT_SECONDS
from roost.v1.worker_service_pb2 import HoldRequest
from roost_gateway.fleet.worker_client import WorkerClients
from roost_gateway.probe import probe


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Port of a gRPC server that answers health checks only, on a machine where the proxy does not answer."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


async def test_workers_are_reached_without_the_proxy(port: int) -> None:
    clients = WorkerClients({})
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await clients.channel(f"127.0.0.1:{port}").stub.Hold(HoldRequest(), timeout=LIMIT_SECONDS)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED  # said by the server
    await clients.aclose()


async def test_the_probe_reaches_gateways_without_the_proxy(port: int) -> None:
    assert await probe("127.0.0.1", port) == {"127.0.0.1": "SERVING"}
