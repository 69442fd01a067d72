"""Pools deleted with live sessions, what is kept of them, and what an uninstall leaves."""

import asyncio
import json

import pytest

from roost.contract.names import PoolKeys
from roost_pool import manifests
from roost_pool.manifests import NAME
from roost_pool.traffic import MEDIUM, Traffic
from roost_pool.waiting import until
from roost_pool.world import NAMESPACE, World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
OWNED = "rayservices,rayclusters,pods,serviceaccounts,secrets,networkpolicies,poddisruptionbudgets,services"
POOL_LABEL = "roost.dev/pool"


async def deleted(world: World) -> None:
    """Deletes the pool and waits until nothing is left that it owned."""
    await world.kubectl("delete", "agentpool", NAME, "--timeout=180s", seconds=190)

    async def nothing() -> bool:
        owned = await world.kubectl("get", OWNED, f"--selector={POOL_LABEL}={NAME}", "--output=name")
        ray = await world.kubectl("get", "pods,services,rayclusters,endpoints", "--output=name")
        return not owned and f"/{NAME}-" not in ray

    await until("everything that the pool owned to go", nothing, 90)


async def test_a_deleted_pool_keeps_its_sessions(world: World, traffic: Traffic) -> None:
    """Steps that run are finished; with `retention: Keep` a pool of the same name goes on with the sessions."""
    talks = [await traffic.open() for _ in range(3)]
    await asyncio.gather(*(talk.say("Begin.") for talk in talks))
    running = [asyncio.create_task(talk.say("Tell me a long story.", MEDIUM)) for talk in talks]
    await asyncio.gather(*(talk.streaming() for talk in talks))
    await deleted(world)
    for receipt in await asyncio.gather(*running):
        assert receipt.failovers_worker == 0
    kept = await world.keys()
    assert all(any(talk.session.id.rpartition("/")[2] in key for key in kept) for talk in talks)
    assert PoolKeys(world.pool).document not in kept

    again = manifests.sample()
    again["spec"]["sessions"]["retention"] = "Purge"
    await world.apply(again)
    await world.ready()
    await asyncio.gather(*(talk.say("Go on.") for talk in talks))
    assert not {talk.workers[-1] for talk in talks} & {talk.workers[0] for talk in talks}


async def test_a_deleted_pool_purges_its_sessions(world: World) -> None:
    """With `retention: Purge` nothing of the pool is left in Redis."""
    assert await world.keys()
    await deleted(world)
    assert await world.keys() == []


async def test_an_uninstall_leaves_what_the_notes_name(world: World) -> None:
    notes = await asyncio.to_thread(world.helm, "get", "notes", "roost")
    await asyncio.to_thread(world.helm, "uninstall", "roost")
    kinds = (
        "all,secret,configmap,pvc,sa,role,rolebinding,networkpolicy,pdb,hpa,lease,clusterrole,clusterrolebinding,crd"
    )
    found = json.loads(await world.kubectl("get", kinds, "--output=json"))["items"]
    left = {
        f"{one['kind']} {one['metadata']['name']}"
        for one in found
        if "roost" in one["metadata"]["name"] or one["metadata"].get("namespace") == NAMESPACE
    }
    cluster = {"ConfigMap kube-root-ca.crt", "ServiceAccount default", "PersistentVolumeClaim models"}
    named = {
        "CustomResourceDefinition agentpools.roost.dev": "the CRD agentpools.roost.dev",
        "Lease roost-operator": "Lease roost-operator",
        "Secret roost-pool-key": "Secret roost-pool-key",
        "Secret roost-store": "Secret roost-store",
        "Secret roost-api-keys": "Secret roost-api-keys",
        "PersistentVolumeClaim data-roost-redis-0": "PersistentVolumeClaim data-roost-redis-0",
    }
    left -= {name for name in left if name.startswith("Pod ") or name in cluster}
    assert left == set(named)
    for words in named.values():
        assert words in notes
