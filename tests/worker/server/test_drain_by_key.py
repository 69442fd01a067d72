"""A worker that is told to drain by its key in Redis, as the operator and its own pod's preStop hook tell it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from redis_servers import RedisServer
from roost.contract.lease import WorkerLease
from roost.store.keys import PoolKeys
from roost.store.link import RedisLink
from roost_worker.server import pre_stop
from worker_harness import POOL, SESSION, WAIT, Ledger, World, reason, scripted_world, worker_config

KEYS = PoolKeys(POOL)
HOOK = "roost_worker.server.pre_stop"


@pytest.fixture
async def world(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    config = worker_config(redis_server.url, tmp_path_factory.getbasetemp() / "roost-cache")
    async with scripted_world(config, lease_period=0.02) as started:
        await started.server._publish()
        yield started


def lease(redis: RedisServer, world: World) -> WorkerLease:
    with redis.client() as client:
        return WorkerLease.decode(client.get(KEYS.lease(world.server.worker_id)))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not holds():  # noqa: ASYNC110  it happens in a publication of the worker's
            await asyncio.sleep(0.01)


def environment(redis: RedisServer, **more: str) -> dict[str, str]:
    return {"ROOST_STORE_URL": redis.url, "ROOST_POOL": POOL, "ROOST_POD_IP": "127.0.0.1", **more}


async def start_hook(redis: RedisServer, **more: str) -> asyncio.subprocess.Process:
    paths = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    command = (sys.executable, "-m", HOOK)
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, env={**environment(redis, **more), **paths}, stderr=pipe)


async def test_the_key_stops_new_steps_and_its_end_lets_them_go_on(world: World, redis_server: RedisServer) -> None:
    world.script(1, "ok")
    world.gate.close()
    ledger, other = Ledger(), Ledger(SESSION[:-1] + "a")
    running = await world.begin(ledger)
    await running.until("accepted")
    with redis_server.client() as client:
        client.set(KEYS.drain(world.server.worker_id), 1)
        await until(lambda: lease(redis_server, world).draining)
        refused = await (await world.begin(other)).fail()
        assert reason(refused) == "WORKER_DRAINING"
        published = lease(redis_server, world)
        assert published.running + published.waiting > 0
        world.gate.open()
        await running.until("finished")
        assert running.out.text == "ok"
        await world.commit(ledger, running)
        await until(lambda: (seen := lease(redis_server, world)).draining and not seen.running and not seen.waiting)
        client.delete(KEYS.drain(world.server.worker_id))
        await until(lambda: not lease(redis_server, world).draining)
    await world.step(other)


async def test_a_step_that_the_engine_has_not_seen_yet_is_waited_for(world: World, redis_server: RedisServer) -> None:
    """It asks for history, which only its gateway can give; a worker called idle now would be stopped under it."""
    ledger = Ledger()
    ledger.commit([1, 2, 3])
    stream = await world.begin(ledger)
    await stream.until("need_history")
    with redis_server.client() as client:
        client.set(KEYS.drain(world.server.worker_id), 1)
    await until(lambda: lease(redis_server, world).draining)
    assert lease(redis_server, world).running + lease(redis_server, world).waiting == 1


async def test_the_lease_says_at_once_what_it_was_told(redis_server: RedisServer, tmp_path: Path) -> None:
    async with scripted_world(worker_config(redis_server.url, tmp_path), lease_period=3600.0) as world:
        with redis_server.client() as client:
            client.set(KEYS.drain(world.server.worker_id), 1)
        await world.server._publish()
        assert lease(redis_server, world).draining


async def test_the_hook_waits_for_running_steps(world: World, redis_server: RedisServer) -> None:
    world.script(1, "ok")
    world.gate.close()
    ledger = Ledger()
    running = await world.begin(ledger)
    await running.until("accepted")
    hook = await start_hook(redis_server)
    await until(lambda: lease(redis_server, world).draining)
    assert hook.returncode is None
    world.gate.open()
    await running.until("finished")
    assert hook.returncode is None, "the step is not committed yet"
    await world.commit(ledger, running)
    async with asyncio.timeout(WAIT):
        _, errors = await hook.communicate()
    assert (hook.returncode, errors) == (0, b"")
    with redis_server.client() as client:
        since = int(client.get(KEYS.drain(world.server.worker_id)))
        assert abs(client.time()[0] * 1000 - since) < WAIT * 1000


async def test_the_hook_waits_no_longer_than_the_drain_time(world: World, redis_server: RedisServer) -> None:
    world.gate.close()
    running = await world.begin(Ledger())
    await running.until("accepted")
    hook = await start_hook(redis_server, ROOST_DRAIN_SECONDS="0.1")
    async with asyncio.timeout(WAIT):
        _, errors = await hook.communicate()
    assert hook.returncode == 0
    assert b"the worker stops all the same" in errors
    running.break_off()


async def test_the_hook_finds_a_worker_whose_lease_comes_late(
    world: World, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restart of Redis, until the worker has published anew."""
    world.gate.close()
    running = await world.begin(Ledger())
    await running.until("accepted")
    look, first = pre_stop.live_leases, [list[WorkerLease]()]

    async def late(link: RedisLink, pool: str) -> list[WorkerLease]:
        return first.pop() if first else await look(link, pool)

    monkeypatch.setattr(pre_stop, "live_leases", late)
    link = RedisLink.open(redis_server.url)
    assert not await pre_stop.drain(link, POOL, "127.0.0.1", 1.0), "its step still runs"
    await link.aclose()
    await until(lambda: lease(redis_server, world).draining)
    running.break_off()


async def test_the_hook_leaves_workers_of_other_pods_alone(
    world: World, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pre_stop, "_UNSEEN_SECONDS", 0.1)
    variables = environment(redis_server, ROOST_POD_IP="10.9.9.9")
    assert await asyncio.to_thread(pre_stop.main, variables) == 0
    with redis_server.client() as client:
        assert not client.exists(KEYS.drain(world.server.worker_id))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"ROOST_STORE_URL": "redis://127.0.0.1:1"}, "the store does not answer"),
        ({"ROOST_STORE_URL": "http://x"}, "the worker is not asked to drain"),
        ({"ROOST_DRAIN_SECONDS": "soon"}, "could not convert string to float"),
    ],
)
def test_a_hook_that_cannot_do_its_work_says_why_and_lets_the_pod_stop(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str], wrong: dict[str, str], says: str
) -> None:
    assert pre_stop.main(environment(redis_server, **wrong)) == 0
    assert says in capsys.readouterr().err


def test_a_hook_whose_store_is_full_says_so_and_lets_the_pod_stop(
    fresh_redis: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    published = WorkerLease("w", "boot", "127.0.0.1:1", "m", "r", capacity_tokens=1, max_running=1)
    with fresh_redis.client() as client:
        client.zadd(KEYS.workers, {"w": 1})
        client.set(KEYS.lease("w"), published.encode())
        client.config_set("maxmemory", 1)
    assert pre_stop.main(environment(fresh_redis)) == 0
    assert "the worker is not asked to drain: Refused" in capsys.readouterr().err
