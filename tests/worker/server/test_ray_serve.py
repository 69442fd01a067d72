"""The worker as a Ray Serve application: found by its lease, restarted by Serve, gone when it is deleted."""

import asyncio
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from redis_servers import RedisServer
from roost.contract.lease import WorkerLease
from roost.store.keys import PoolKeys
from roost.v1 import session_service_pb2 as api
from roost.v1 import worker_service_pb2 as pb
from roost.v1 import worker_service_pb2_grpc as pb_grpc
from worker_harness import POOL, SECRET, Ledger, Stream, reason, worker_config

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own deprecations
    import ray
    from ray import serve

    from roost_worker.serve_app import Resources, app, build_app

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(560)]
KEYS = PoolKeys(POOL)
LONG = 240.0


@pytest.fixture
def local_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's 15 would starve them beside other tests
    ray.init(address="local", num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    serve.start(proxy_location="Disabled")
    yield
    serve.shutdown()
    ray.shutdown()


def wait_for(condition: Callable[[], object]) -> object:
    """Polls what only other processes can change."""
    end = time.monotonic() + LONG
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return value


def leases(redis: RedisServer) -> list[WorkerLease]:
    with redis.client() as client:
        texts = [client.get(KEYS.lease(name.decode())) for name in client.zrange(KEYS.workers, 0, -1)]
    return [WorkerLease.decode(text) for text in texts if text]


def process_named(name: str) -> psutil.Process:
    """The one process of our local Ray whose title begins so."""
    (process,) = [child for child in psutil.Process().children(recursive=True) if name in " ".join(child.cmdline())]
    return process


async def begin(address: str, ledger: Ledger, tokens: int) -> tuple[grpc.aio.Channel, Stream]:
    channel = grpc.aio.insecure_channel(address)
    stream = Stream(pb_grpc.WorkerServiceStub(channel), timeout=LONG)
    await stream.send(
        start=pb.Start(
            attempt=ledger.next_attempt(),
            session=ledger.ref(),
            tenant="tenant",
            messages=[api.Message(role=api.MESSAGE_ROLE_USER, content="Tell me a story.")],
            sampling=api.Sampling(seed=1, max_tokens=tokens, ignore_eos=True),
        )
    )
    return channel, stream


async def serve_a_step(address: str) -> None:
    channel, stream = await begin(address, ledger := Ledger(), 4)
    async with channel:
        await stream.until("finished")
        assert len(stream.out.ids) == 4
        await stream.commit(ledger.commit([*stream.accepted.prompt_token_ids, *stream.out.ids]))


async def test_a_replica_serves_restarts_and_drains(local_ray: None, redis_server: RedisServer, tmp_path: Path):
    config = worker_config(redis_server.url, tmp_path, drain_seconds=60.0)
    resources = Resources(rank_threads=1)
    await asyncio.to_thread(serve.run, build_app(config, 1, resources), name="roost", route_prefix=None)
    (first,) = leases(redis_server)
    await serve_a_step(first.address)

    replica, rank = process_named("ray::ServeReplica"), process_named("ray::RankActor")
    replica.kill()
    (second,) = await asyncio.to_thread(wait_for, lambda: [w for w in leases(redis_server) if w.boot != first.boot])
    assert not rank.is_running()
    await serve_a_step(second.address)

    replica, rank = process_named("ray::ServeReplica"), process_named("ray::RankActor")
    channel, stream = await begin(second.address, Ledger(), 200)
    async with channel:
        await stream.until("delta")
        rank.kill()
        error = await stream.fail()
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
    known = {first.boot, second.boot}
    (third,) = await asyncio.to_thread(wait_for, lambda: [w for w in leases(redis_server) if w.boot not in known])
    assert not replica.is_running()

    channel, stream = await begin(third.address, ledger := Ledger(), 200)
    async with channel:
        await stream.until("delta")
        deleting = asyncio.create_task(asyncio.to_thread(serve.delete, "roost"))
        await asyncio.to_thread(wait_for, lambda: [w for w in leases(redis_server) if w.draining])
        await stream.until("finished")
        await stream.commit(ledger.commit([*stream.accepted.prompt_token_ids, *stream.out.ids]))
    await deleting
    assert leases(redis_server) == []


def test_a_replica_reserves_its_shell_and_each_of_its_ranks():
    assert Resources(0.5, 0.25).bundles(2) == [{"CPU": 0.5}, {"CPU": 0.25}, {"CPU": 0.25}]
    assert Resources(1, 0, 1).bundles(1) == [{"CPU": 1}, {"GPU": 1}]


def test_the_application_is_built_from_a_document():
    worker = {"pool": POOL, "model": {"name": "m", "source": "dummy://llama-tiny"}, "pool_secret": SECRET}
    built = app({"worker": worker, "replicas": 3, "resources": {"rank_cpus": 0.5}})
    assert built._bound_deployment.num_replicas == 3
    with pytest.raises(ValueError, match="replica is unknown"):
        app({"worker": worker, "replica": 3})
    with pytest.raises(ValueError, match="rank_cpu is unknown; did you mean"):
        app({"worker": worker, "resources": {"rank_cpu": 0.5}})
    with pytest.raises(ValueError, match="worker is missing"):
        app({})
