"""A changed pod template: a new worker in the place of the old one, or beside it and then without it, while sessions go
on. What the first test leaves is what the second one replaces.

A changed model is in test_pool_model_change.py.
"""

import asyncio

import pytest

from roost_pool import manifests
from roost_pool.traffic import MEDIUM, Traffic
from roost_pool.waiting import until
from roost_pool.world import START_SECONDS, World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
CLUSTER_LABEL = "ray.io/cluster"


async def test_a_template_is_changed_in_place(world: World, traffic: Traffic) -> None:
    """The worker drains, its pod goes, and KubeRay makes one of the new template in the same RayCluster."""
    (before,) = await world.workers()
    old, head, cluster = await world.pod("worker"), await world.pod("head"), await the_cluster(world)
    pool = manifests.sample()
    pool["spec"]["workers"] |= {"upgrade": "InPlace", "template": manifests.template(note="renewed")}
    async with traffic.flowing():
        talk = await traffic.open()
        await talk.say("Remember the number seven.")
        running = asyncio.create_task(talk.say("Tell me a long story.", MEDIUM))
        await talk.streaming()
        await world.apply(pool)

        async def upgrading() -> bool:
            return (await world.conditions()).get("Progressing") == "True Upgrading"

        await until("the pool to tell of the upgrade", upgrading, 30)
        assert (await running).failovers_worker == 0, "the drain lets steps end where they run"
        await world.ready()
        await talk.say("Which number?")
    (after,) = await world.workers()
    assert (talk.workers[0], talk.workers[-1]) == (before.worker_id, after.worker_id)
    assert before.worker_id != after.worker_id
    new = await world.pod("worker")
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert new["metadata"]["annotations"]["note"] == "renewed"
    assert await the_cluster(world) == cluster
    assert (await world.pod("head"))["metadata"]["uid"] == head["metadata"]["uid"]


async def the_cluster(world: World) -> tuple[str, str]:
    """Name and uid of the pool's only RayCluster."""
    (cluster,) = (await world.get("rayclusters"))["items"]
    return cluster["metadata"]["name"], cluster["metadata"]["uid"]


@pytest.mark.smoke
async def test_a_changed_template_replaces_the_workers(world: World, traffic: Traffic) -> None:
    (before,) = await world.workers()
    old = (await world.pod("worker"))["metadata"]["labels"][CLUSTER_LABEL]
    pool = manifests.sample()
    pool["spec"]["workers"]["template"] = manifests.template(note="another")
    async with traffic.flowing():
        talk = await traffic.open()
        await talk.say("Remember the number seven.")
        await world.apply(pool)

        async def beside() -> bool:
            """The old workers serve until the new ones do."""
            clusters = {pod["metadata"]["labels"][CLUSTER_LABEL] for pod in await world.pods("worker")}
            return len(clusters) == 2

        await until("a new cluster beside the old", beside, START_SECONDS)
        await talk.say("Which number?")
        assert talk.workers[-1] == before.worker_id
        await world.ready()

        async def makes_way() -> bool:
            return all(worker.draining for worker in await world.workers() if worker.worker_id == before.worker_id)

        await until("the old worker to make way", makes_way, 30)
        await talk.say("And which was it?")
        assert talk.workers[-1] != before.worker_id

        async def alone() -> bool:
            clusters = {pod["metadata"]["labels"][CLUSTER_LABEL] for pod in await world.pods("worker", alive=False)}
            return old not in clusters

        await until("the old cluster to go", alone, START_SECONDS)
    (after,) = await world.workers()
    assert after.worker_id == talk.workers[-1]
    assert (await world.pod("worker"))["metadata"]["annotations"]["note"] == "another"
