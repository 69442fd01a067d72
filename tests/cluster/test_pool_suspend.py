"""A pool with 50 sessions is suspended, deleted meanwhile and applied again, and goes on with all of them."""

import asyncio

import pytest

from roost.errors import PoolSuspendedError
from roost.store.keys import PoolKeys
from roost_pool import manifests
from roost_pool.manifests import NAME
from roost_pool.removal import deleted
from roost_pool.traffic import MEDIUM, Traffic
from roost_pool.waiting import until
from roost_pool.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SESSIONS = 50


async def suspended(world: World) -> None:
    """Waits until the pool says that it is suspended; no worker is left then."""

    async def says_so() -> bool:
        return (await world.conditions()).get("Ready") == "False Suspended"

    await until("the pool to be suspended", says_so, 90)
    assert await world.pods("worker") == []


async def test_fifty_sessions_outlive_a_suspension_and_the_pools_deletion(world: World, traffic: Traffic) -> None:
    """With `Keep`, the default, a pool of the same name goes on with the sessions of the one that was deleted."""
    talks = [await traffic.open() for _ in range(SESSIONS)]
    await asyncio.gather(*(talk.say("Begin.", 4) for talk in talks))
    running = asyncio.create_task(talks[0].say("Tell me a long story.", MEDIUM))
    await talks[0].streaming()
    await world.patch(f"agentpool/{NAME}", {"spec": {"suspend": True}})
    await running  # a step that runs is finished first
    await suspended(world)
    with pytest.raises(PoolSuspendedError):
        await talks[1].session.run("Are you there?", step_id="refused")

    async def cold() -> bool:
        sessions = (await world.get("agentpool", NAME))["status"]["sessions"]
        return bool(sessions["hot"] == 0 and sessions["cold"] >= SESSIONS)

    await until("all sessions to be counted cold", cold, 40)
    await deleted(world, NAME)
    kept = await world.keys()
    assert all(any(talk.session.id.rpartition("/")[2] in key for key in kept) for talk in talks)
    assert PoolKeys(world.pool).document not in kept

    again = manifests.sample()
    again["spec"]["suspend"] = True
    await world.apply(again)
    await suspended(world)
    await world.patch(f"agentpool/{NAME}", {"spec": {"suspend": False}})
    await world.ready()
    await asyncio.gather(*(talk.say("Go on.", 4) for talk in talks))
    (worker,) = await world.workers()
    assert {talk.workers[-1] for talk in talks} == {worker.worker_id}
    assert {talk.workers[0] for talk in talks} != {worker.worker_id}
