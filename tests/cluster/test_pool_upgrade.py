"""A changed pod template: new workers beside the old ones, then without them, while sessions go on.

A changed model is in test_pool_model_change.py.
"""

import pytest

from roost_pool import manifests
from roost_pool.traffic import Traffic
from roost_pool.waiting import until
from roost_pool.world import START_SECONDS, World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
CLUSTER_LABEL = "ray.io/cluster"


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
            return all(one.draining for one in await world.workers() if one.worker_id == before.worker_id)

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
