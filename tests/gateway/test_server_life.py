"""A gateway's configuration, start, health, telemetry and end."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway_driver import ROOT, Rig, gateway, serving, step_request, world
from redis_servers import RedisServer, free_port
from roost.contract.api_keys import hash_api_key
from roost.contract.refused import Refused
from roost.v1 import session_service_pb2 as pb
from roost_gateway.config import ConfigError, GatewayConfig, load_config
from roost_gateway.front.credentials import Authenticator
from roost_gateway.front.grpc_server import SERVICE_NAME
from roost_gateway.front.server import GatewayServer
from roost_gateway.probe import probe
from roost_gateway.telemetry import Telemetry

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"listen": "0.0.0.0:7070"}, "api_keys_file"),
        ({"listen": "7070"}, "listen"),
        ({"http_listen": "0.0.0.0:8080"}, "http_listen.*api_keys_file"),
        ({"http_listen": "8080"}, "http_listen"),
        ({"store_ulr": "redis://x"}, "store_url"),
        ({"pools": ["Nope"]}, "namespace/name"),
        ({"pools": "a/b"}, "pools"),
        ({"max_message_bytes": True}, "max_message_bytes"),
        ({"drain_seconds": -1}, "drain_seconds"),
        ({"step_timeout_seconds": 0}, "step_timeout_seconds"),
        ({"api_keys_file": "missing.yaml"}, "missing.yaml"),
        ({"pool_secrets_file": "missing.yaml"}, "missing.yaml"),
        (["a list"], "mapping"),
    ],
)
def test_a_bad_configuration_names_field_and_fix(tmp_path: Path, document: object, named: str) -> None:
    path = tmp_path / "gateway.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=named):
        GatewayServer(load_config(path))


def test_a_configuration_is_read_from_yaml_with_its_secrets(tmp_path: Path) -> None:
    (tmp_path / "secrets.yaml").write_text("a/b: hidden\n")
    path = tmp_path / "gateway.yaml"
    path.write_text("listen: '[::1]:0'\npools: [a/b]\npool_secrets_file: secrets.yaml\nmetrics_port:\n")
    config = load_config(path)
    assert config.pools == ("a/b",)
    assert config.pool_secrets == {"a/b": "hidden"}
    assert "hidden" not in repr(config)


def test_keys_are_read_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    line = "keys: [{{id: k, sha256: {}, tenant: {}, pools: ['*']}}]"
    path.write_text(line.format(hash_api_key("one"), "t1"))
    keys = Authenticator(path)
    assert keys.identify([("authorization", "Bearer one")]).tenant == "t1"
    path.write_text(line.format(hash_api_key("two"), "tenant-2"))
    assert keys.identify([("authorization", "bearer two")]).tenant == "tenant-2"
    with pytest.raises(Refused):
        keys.identify([("authorization", "Bearer one")])


@pytest.mark.parametrize("broken", [b"keys: broken", b"keys: [", b"keys: \xff", b"keys: []\nsince: 2026-02-30"])
def test_a_key_file_that_cannot_be_read_changes_no_keys_and_starts_no_gateway(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys: [{{id: k, sha256: {hash_api_key('one')}, tenant: t, pools: ['*']}}]")
    keys = Authenticator(path)
    path.write_bytes(broken)
    assert keys.identify([("authorization", "Bearer one")]).tenant == "t"
    with pytest.raises(ConfigError, match="api_keys_file"):
        Authenticator(path)


async def test_health_says_serving_once_store_and_worker_are_there(fresh_redis: RedisServer) -> None:
    async with Rig(fresh_redis) as rig:
        fresh_redis.kill()
        server = await rig.gateway(open_first=False)
        caller = rig.caller(server)
        health = health_pb2_grpc.HealthStub(caller.channel)
        for service in ("", SERVICE_NAME):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await caller.open()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        fresh_redis.start()
        await rig.worker()
        await serving(server.address)
        assert (await caller.step(step_request(await caller.open()))).committed is not None


async def test_reflection_names_the_service(rig: Rig) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(rig.caller(await rig.gateway()).channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    answer = await anext(aiter(call))
    assert SERVICE_NAME in [service.name for service in answer.list_services_response.service]
    call.cancel()


async def test_one_trace_and_the_gen_ai_figures_of_a_step(rig: Rig) -> None:
    reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
    worker = await rig.worker()
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    async with gateway(rig.redis, Telemetry("g1", reader=reader, exporter=exporter)) as server:
        caller = rig.caller(server)
        session = await caller.open()
        caller.metadata = [("traceparent", f"00-{trace_id}-b7ad6b7169203331-01")]
        await caller.step(step_request(session))
        await caller.aclose()
        data = reader.get_metrics_data()
    assert [trace.split("-")[1] for trace in worker.traces] == [trace_id]
    span = next(span for span in exporter.get_finished_spans() if span.name.endswith("/Step"))
    assert span.attributes is not None
    assert span.attributes["gen_ai.conversation.id"] == session.id
    assert span.attributes["gen_ai.usage.output_tokens"] == 8
    assert data is not None
    names = {m.name for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    assert names >= {
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "roost.steps.committed",
        "roost.calls",
        "roost.store.durable",
    }


async def test_prometheus_tells_counts_and_weak_durability(
    fresh_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    fresh_redis.options["appendonly"] = "no"
    fresh_redis.restart()
    async with world(fresh_redis, metrics_port=0) as w:
        await w.caller.step(step_request(await w.caller.open()))
        reading, writing = await asyncio.open_connection("127.0.0.1", w.gateway.metrics_port)
        writing.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = (await reading.read()).decode()
        writing.close()
        await writing.wait_closed()
    assert "roost_store_durable{" in text or "roost_store_durable 0.0" in text
    assert "roost_steps_committed_total{" in text
    assert "gen_ai_server_time_to_first_token_seconds_bucket" in text
    durable = next(line for line in text.splitlines() if line.startswith("roost_store_durable"))
    assert durable.endswith(" 0.0")
    assert "WeakDurability" in caplog.text
    assert "committed steps are lost when Redis restarts; set appendonly yes" in caplog.text


@pytest.mark.parametrize(
    ("listen", "address", "hosts"),
    [
        ("[::1]:0", "[::1]", ["::1"]),
        ("localhost:0", "localhost", ["127.0.0.1"]),
        ("[::]:0", "[::]", ["127.0.0.1", "::1"]),
        ("0.0.0.0:0", "0.0.0.0", ["127.0.0.1"]),
    ],
)
async def test_a_gateway_listens_on_ipv4_and_ipv6(
    rig: Rig, tmp_path: Path, listen: str, address: str, hosts: list[str]
) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys: [{{id: k, sha256: {hash_api_key('one')}, tenant: t, pools: ['*']}}]")
    server = await rig.gateway(listen=listen, api_keys_file=keys, metrics_port=0)
    host, _, port = server.address.rpartition(":")
    assert host == address
    for target in (host.strip("[]"), *hosts):
        assert set((await probe(target, int(port))).values()) <= {"SERVING", "NOT_SERVING"}
        _, metrics = await asyncio.open_connection(target, server.metrics_port)
        metrics.close()
        await metrics.wait_closed()


async def test_a_taken_port_is_a_clear_error(redis_server: RedisServer, tmp_path: Path) -> None:
    async with gateway(redis_server) as server:
        config = tmp_path / "gateway.yaml"
        config.write_text(f"listen: {server.address}\nstore_url: {redis_server.url}\n")
        with pytest.raises(ConfigError, match="choose another port"):
            await _start_and_stop(load_config(config))


async def _start_and_stop(config: GatewayConfig) -> None:
    server = GatewayServer(config)
    try:
        await server.start()
    finally:
        await server.stop()


async def test_the_process_tells_its_address_and_ends_on_sigterm(rig: Rig, tmp_path: Path) -> None:
    await rig.worker()
    port = free_port()
    child = await rig.process(tmp_path, listen=f"127.0.0.1:{port}")
    assert child.address == f"127.0.0.1:{port}"
    assert not (await rig.caller(child).stub.ListSessions(pb.ListSessionsRequest())).sessions
    child.terminate()
    assert await child.wait() == 0


def test_grpc_knows_the_settings_that_the_process_makes() -> None:
    """Another gRPC may drop them: then measure anew, and take them out."""
    code = "import roost_gateway.__main__, grpc; grpc.insecure_channel('127.0.0.1:1').close()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("proto", "gateway"))}
    imported = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "experiment" not in imported.stderr.lower()
