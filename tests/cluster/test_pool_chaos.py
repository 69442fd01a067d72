"""Each part of a pool of one worker is deleted while sessions step: nothing committed is lost or doubled."""

import asyncio

import pytest

from roost_operator.demo.journal import Receipt
from roost_pool.manifests import NAME
from roost_pool.traffic import Talk, Traffic
from roost_pool.waiting import until
from roost_pool.world import START_SECONDS, World, is_ready

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


async def stepping(traffic: Traffic) -> tuple[Talk, "asyncio.Task[Receipt]"]:
    """A session in the middle of a long step."""
    talk = await traffic.open()
    return talk, await talk.tell_a_story()


async def test_a_gateway_pod(world: World, traffic: Traffic) -> None:
    """The other gateway takes the step over from the worker, where it went on meanwhile."""
    async with traffic.flowing():
        talk, running = await stepping(traffic)
        await world.kill((await world.pods("gateway"))[0])  # clients stay with the first one that answers
        assert (await running).failovers_gateway == 1
        assert talk.restarts == 0
        await world.kubectl("rollout", "status", "deployment/roost-gateway", "--timeout=60s")


async def test_the_operator_pod(world: World, traffic: Traffic) -> None:
    """Steps need no operator; the next one mends what was broken meanwhile."""
    async with traffic.flowing():
        talk, running = await stepping(traffic)
        await world.kill(await world.pod("operator"))
        await world.kubectl("delete", f"poddisruptionbudget/{NAME}-worker")
        await running

        async def mended() -> bool:
            return await world.exists(f"poddisruptionbudget/{NAME}-worker")

        await until("a new operator to mend the pool", mended, 90)
        assert (talk.restarts, len(talk.workers)) == (0, 2)
    await world.ready()


async def test_the_redis_pod(world: World, traffic: Traffic) -> None:
    """A running step streams on, and is committed when Redis has come back with all that it held."""
    talk, running = await stepping(traffic)
    async with traffic.flowing():
        await world.kill(await world.pod("redis"))
        await world.kubectl("rollout", "status", "statefulset/roost-redis", "--timeout=120s", seconds=130)
        await running
        assert len(talk.workers) == 2
    await world.ready()


@pytest.mark.smoke
async def test_the_only_worker_pod(world: World, traffic: Traffic) -> None:
    """The step waits for the next worker, and goes on there from the tokens that were streamed."""
    talk, running = await stepping(traffic)
    async with traffic.flowing(1):
        victim = await world.worker_pod(talk.workers[-1])
        await world.kill(victim)
        await running
        assert talk.workers[-1] != talk.workers[0]
    await world.ready()
    assert [pod["metadata"]["uid"] for pod in await world.pods("worker")] != [victim["metadata"]["uid"]]


async def test_the_head_pod_of_ray(world: World, traffic: Traffic) -> None:
    """What it knew is in Redis: its workers go on without it, and then under the next one."""
    talk, running = await stepping(traffic)
    async with traffic.flowing(1):
        before = {worker.worker_id for worker in await world.workers()}
        await world.kill(await world.pod("head"))
        await running
        assert (talk.restarts, len(talk.workers)) == (0, 2)

        async def healed() -> bool:
            return [is_ready(pod) for pod in await world.pods("head")] == [True]

        await until("another head", healed, START_SECONDS)
        await talk.say("And then?")
    await world.ready()
    assert {worker.worker_id for worker in await world.workers()} == before


async def test_the_ray_service(world: World, traffic: Traffic) -> None:
    """The operator makes it anew; its workers drain meanwhile."""
    talk, running = await stepping(traffic)
    before = (await world.get("rayservice", NAME))["metadata"]["uid"]
    await world.kubectl("delete", "rayservice", NAME, "--wait=false")
    await running

    async def made_anew() -> bool:
        uid = "--output=jsonpath={.metadata.uid}"
        return await world.kubectl("get", "rayservice", NAME, "--ignore-not-found", uid) not in ("", before)

    await until("another RayService", made_anew, 90)
    await talk.say("And then?")
    await world.ready()
