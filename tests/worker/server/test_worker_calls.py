"""Evict, GetState, secrets, draining, health and telemetry of a running worker."""

import asyncio
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from redis_servers import RedisServer
from roost.contract.lease import WorkerLease
from roost.store.keys import PoolKeys
from roost.v1 import worker_service_pb2 as pb
from roost_worker.config import ModelConfig, WorkerConfig
from roost_worker.convert.errors import ConvertError
from roost_worker.engine.messages import EngineStats, Outputs
from roost_worker.model.config import ModelConfigError
from roost_worker.server import server as server_module
from roost_worker.server.cache_keys import cache_root
from roost_worker.server.server import WorkerServer, advertised_host, new_worker_id
from worker_harness import (
    POOL,
    WAIT,
    Ledger,
    World,
    attempt,
    reason,
    scripted_world,
    worker_config,
)

KEYS = PoolKeys(POOL)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def residency(redis: RedisServer, world: World) -> dict[str, int]:
    with redis.client() as client:
        return {k.decode(): int(v) for k, v in client.hgetall(KEYS.residency(world.server.worker_id)).items()}


async def parked(world: World) -> Ledger:
    world.script(1, "ok")
    ledger = Ledger()
    await world.step(ledger)
    return ledger


async def evict(world: World, ledger: Ledger, epoch: int) -> int:
    return (await world.call("Evict", pb.EvictRequest(session_id=ledger.session_id, epoch=epoch))).evicted_tokens


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not holds():  # noqa: ASYNC110  nothing else to wait on from outside
            await asyncio.sleep(0.005)


async def health(world: World, service: str = "") -> int:
    async with grpc.aio.insecure_channel(world.server.address) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return reply.status


async def test_an_eviction_drops_the_cache_and_is_published_when_it_returns(world: World, redis_server: RedisServer):
    ledger = await parked(world)
    await world.server._publish()
    assert residency(redis_server, world) == {ledger.session_id: len(ledger.ids) - 1}
    assert await evict(world, ledger, 50) == len(ledger.ids) - 1
    assert residency(redis_server, world) == {}
    assert not (await world.state()).sessions
    assert await evict(world, ledger, 51) == 0


async def test_an_eviction_older_than_what_was_seen_is_ignored(world: World):
    ledger = await parked(world)
    ledger.epoch = 5
    await world.step(ledger)
    assert await evict(world, ledger, 5) == 0
    assert len((await world.state()).sessions) == 1


async def test_a_step_that_begins_and_ends_within_the_engine_step_of_an_eviction_stays_resident(world: World):
    ledger = await parked(world)
    world.gate.close()
    blocker = await world.begin(Ledger(f"{POOL}/02hzzzzzzzzzzzzzzzzzzzzzzz"))
    await until(lambda: len(world.runner.contexts) == 2)  # the engine stands in its draw
    eviction = asyncio.create_task(evict(world, ledger, 9))
    await until(lambda: bool(world.server.shell._evictions))
    ledger.epoch = 9
    stream = await world.begin(ledger, sampling={"max_tokens": 1})
    await stream.until("need_history")
    await stream.send(history=ledger.history(0))
    await stream.until("accepted")
    world.gate.open()
    await stream.until("finished")
    await eviction
    await world.commit(ledger, stream)
    await blocker.until("finished")
    resident = {session.session_id: session.cached_tokens for session in (await world.state()).sessions}
    assert resident[ledger.session_id] == len(ledger.ids) - 1
    assert (await world.step(ledger)).accepted.cached_tokens == resident[ledger.session_id]


async def test_an_eviction_fences_a_running_attempt_and_those_that_come_late(world: World):
    world.script(1, "abcd")
    ledger = Ledger()
    world.gate.let(1)
    stream = await world.begin(ledger)
    await stream.until("delta")
    eviction = asyncio.create_task(evict(world, ledger, 9))
    error = await stream.fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.ABORTED, "ATTEMPT_FENCED")
    world.gate.open()
    await eviction
    assert reason(await (await world.begin(ledger, attempt=attempt(8))).fail()) == "ATTEMPT_FENCED"


async def test_the_state_adds_up(world: World):
    ledger = await parked(world)
    state = await world.state()
    total = state.blocks.free + state.blocks.cached + state.blocks.in_use
    assert total * state.block_tokens == state.capacity_tokens
    assert state.generated_tokens == 3
    assert state.prefilled_tokens >= len(ledger.ids) - 3
    assert (state.worker_id, state.draining) == (world.server.worker_id, False)


@pytest.mark.parametrize("secret", ["", "wrong"])
async def test_every_call_needs_the_pools_secret(world: World, secret: str):
    for method, request in (
        ("Evict", pb.EvictRequest()),
        ("Hold", pb.HoldRequest()),
        ("GetState", pb.GetStateRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.call(method, request, secret)
        assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY")
    # Nothing is sent: with grpcio 1.85 a message that is sent after the refusal may replace its status by INTERNAL.
    assert (await world.stream(secret=secret).fail()).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_another_revision_is_refused(world: World):
    error = await (await world.begin(Ledger(), model_revision="other")).fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_REVISION_MISMATCH")
    world.script(1, "ok")
    stream = await world.begin(Ledger(), model_revision=world.server.shell.identity.revision)
    await stream.until("finished")


async def test_a_draining_worker_finishes_what_runs_and_takes_nothing_new(world: World, redis_server: RedisServer):
    world.script(1, "abcd")
    ledger = Ledger()
    world.gate.let(1)
    stream = await world.begin(ledger)
    await stream.until("delta")
    assert await health(world) == SERVING
    draining = asyncio.create_task(world.server.drain())
    while not world.server.shell.draining:  # noqa: ASYNC110  set by the task's first steps
        await asyncio.sleep(0)
    error = await (await world.begin(Ledger(f"{POOL}/02hzzzzzzzzzzzzzzzzzzzzzzz"))).fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "WORKER_DRAINING")
    assert await health(world) == NOT_SERVING
    assert (await world.state()).draining
    world.gate.open()
    await stream.until("finished")
    assert not draining.done()
    await world.commit(ledger, stream)
    assert await draining
    with redis_server.client() as client:
        assert WorkerLease.decode(client.get(KEYS.lease(world.server.worker_id))).draining


async def test_a_drain_ends_after_its_time(redis_server: RedisServer, tmp_path):
    async with scripted_world(worker_config(redis_server.url, tmp_path, drain_seconds=0.01)) as world:
        world.gate.close()
        stream = await world.begin(Ledger())
        await stream.until("accepted")
        assert not await world.server.drain()


async def test_the_lease_tells_what_a_gateway_must_know_and_goes_with_the_worker(redis_server: RedisServer, tmp_path):
    async with scripted_world(worker_config(redis_server.url, tmp_path), lease_period=0.01) as world:
        ledger = await parked(world)
        async with asyncio.timeout(WAIT):
            while not residency(redis_server, world):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert residency(redis_server, world) == {ledger.session_id: len(ledger.ids) - 1}
        with redis_server.client() as client:
            lease = WorkerLease.decode(client.get(KEYS.lease(world.server.worker_id)))
        info = world.server.shell.engine.info
        assert (lease.address, lease.capacity_tokens) == (world.server.address, info.capacity_tokens)
        assert lease.free_tokens == info.capacity_tokens
        assert lease.model_revision == world.server.shell.identity.revision
        name = world.server.worker_id
    with redis_server.client() as client:
        assert client.exists(KEYS.lease(name), KEYS.residency(name)) == 0
        assert client.zscore(KEYS.workers, name) is None


async def test_a_generate_continues_the_callers_trace(redis_server: RedisServer, tmp_path):
    spans, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    async with scripted_world(worker_config(redis_server.url, tmp_path), tracer_provider=provider) as world:
        world.script(1, "ok")
        trace = "0af7651916cd43dd8448eb211c80319c"
        ledger = Ledger()
        await world.step(ledger, metadata=[("traceparent", f"00-{trace}-b7ad6b7169203331-01")])
        prompt = len(ledger.ids) - 3
    (span,) = spans.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == trace
    assert span.attributes["gen_ai.usage.output_tokens"] == 3
    assert span.attributes["gen_ai.usage.input_tokens"] == prompt
    assert span.attributes["roost.session.id"] == ledger.session_id


async def test_prometheus_reads_the_engines_gauges(redis_server: RedisServer, tmp_path):
    async with scripted_world(worker_config(redis_server.url, tmp_path, metrics_port=0)) as world:
        await parked(world)
        stats = EngineStats(generated_tokens=3, blocks_free=63, host_blocks=2, restored_blocks=1, displaced_blocks=4)
        stats = replace(stats, draft_tokens=9, right_draft_tokens=6)
        world.server.shell.take(Outputs(stats=stats, warm=(("other", 16),)))
        url = f"http://127.0.0.1:{world.server.metrics_port}/metrics"
        text = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
        values: dict[str, float] = Counter()
        for line in text.splitlines():
            if not line.startswith("#"):
                values[line.split("{")[0]] += float(line.split()[-1])
        assert values["roost_worker_tokens_generated_total"] == 3
        assert values["roost_worker_tokens_guessed_total"] == 9
        assert values["roost_worker_kv_blocks"] == 63
        assert values["roost_worker_sessions"] == 1
        assert values["roost_worker_warm"] == 16
        assert values["roost_worker_host_memory_bytes"] == 2
        assert values["roost_worker_host_memory_blocks_total"] == 5


def test_two_tenants_roots_differ_and_depend_on_the_secret():
    roots = {cache_root(secret, tenant) for secret in ("a", "b") for tenant in ("x", "y")}
    assert len(roots) == 4
    assert {len(root) for root in roots} == {16}


async def test_a_worker_without_a_secret_listens_to_itself_only():
    config = WorkerConfig(POOL, ModelConfig("m", "dummy://llama-tiny"), host="0.0.0.0")
    with pytest.raises(ValueError, match="needs pool_secret"):
        WorkerServer(config, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "dummy://nothing"}, "dummy://nothing"),
        ({"tensor_parallel": 7}, "tensorParallel: 7 does not divide"),
        ({"context_tokens": 1 << 20}, "contextTokens: 1048576 is more than"),
    ],
)
async def test_a_model_that_cannot_be_served_is_refused_before_an_engine_starts(tmp_path, change, message):
    config = worker_config("redis://127.0.0.1:1", tmp_path)
    server = WorkerServer(replace(config, model=replace(config.model, **change)), None)
    with pytest.raises((ConvertError, ModelConfigError), match=message):
        await server.start()


async def test_a_taken_port_is_named(world: World, tmp_path):
    port = int(world.server.address.rsplit(":", 1)[1])
    config = worker_config("redis://127.0.0.1:1", tmp_path, port=port)
    with pytest.raises(OSError, match=f"port {port} on 127.0.0.1 is taken"):
        async with scripted_world(config):
            pass


def test_worker_ids_are_their_own_and_fit_into_keys():
    assert new_worker_id() != new_worker_id()
    assert all(character.isalnum() or character == "-" for character in new_worker_id())


class Route:
    """A socket that knows the way, or finds the network unreachable."""

    def __init__(self, unreachable: bool):
        self._unreachable = unreachable

    def __enter__(self) -> "Route":
        return self

    def __exit__(self, *_: object) -> None: ...

    def connect(self, _: object) -> None:
        if self._unreachable:
            raise OSError("Network is unreachable")

    def getsockname(self) -> tuple[str, int]:
        return ("10.0.0.7", 4)


def test_an_address_for_all_interfaces_is_advertised_as_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server_module.socket, "socket", lambda *_: Route(unreachable=False))
    assert advertised_host("127.0.0.1") == "127.0.0.1"
    assert advertised_host("0.0.0.0") == "10.0.0.7"


def test_a_machine_without_a_route_is_told_to_name_its_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server_module.socket, "socket", lambda *_: Route(unreachable=True))
    with pytest.raises(OSError, match="set host to the address"):
        advertised_host("0.0.0.0")


async def test_an_engine_that_hangs_ends_the_worker_and_its_streams(
    redis_server: RedisServer, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server_module, "WATCH_SECONDS", 0.01)
    async with scripted_world(worker_config(redis_server.url, tmp_path)) as world:
        world.gate.close()
        stream = await world.begin(Ledger())
        await stream.until("accepted")
        eviction = asyncio.create_task(evict(world, Ledger(f"{POOL}/02hzzzzzzzzzzzzzzzzzzzzzzz"), 1))
        async with asyncio.timeout(WAIT):
            while not world.server.shell._evictions:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        monkeypatch.setattr(server_module, "SILENT_SECONDS", -1.0)
        error = await stream.fail()
        assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
        with pytest.raises(grpc.aio.AioRpcError, match="engine is gone"):
            await eviction
        async with asyncio.timeout(WAIT):
            while not world.fatal:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert "silent" in world.fatal[0]
        assert len(world.fatal) == 1
        with redis_server.client() as client:
            assert client.exists(KEYS.lease(world.server.worker_id)) == 0
        assert (
            reason(await (await world.begin(Ledger(f"{POOL}/03hzzzzzzzzzzzzzzzzzzzzzzz"))).fail()) == "WORKER_DRAINING"
        )
