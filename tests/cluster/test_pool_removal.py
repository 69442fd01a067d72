"""A pool deleted with live sessions, a refused uninstall before, and what an uninstall leaves."""

import asyncio
import json
from pathlib import Path

import pytest

from roost_operator.demo.journal import Journal
from roost_pool.manifests import NAME
from roost_pool.removal import deleted
from roost_pool.traffic import MEDIUM, Traffic
from roost_pool.world import CHART, NAMESPACE, RELEASE, World

pytestmark = [pytest.mark.e2e, pytest.mark.smoke, pytest.mark.timeout(600)]


async def test_an_uninstall_is_refused_while_there_are_pools(world: World) -> None:
    """What `helm rollback` then keeps can be upgraded as before."""
    await world.ready()
    release = json.loads(await asyncio.to_thread(world.helm, "status", RELEASE, "--output=json"))["version"]
    refused = await asyncio.to_thread(lambda: world.helm("uninstall", RELEASE, fails=True))
    assert f"pools still exist: {NAMESPACE}/{NAME}" in refused
    assert f"to keep it: helm rollback {RELEASE} {release} --namespace {NAMESPACE}" in refused
    assert (await world.get("deployment", f"{RELEASE}-gateway"))["spec"]["replicas"] >= 1
    await asyncio.to_thread(world.helm, "rollback", RELEASE, str(release))
    await asyncio.to_thread(world.helm, "upgrade", RELEASE, str(CHART), "--reuse-values")


async def test_a_deleted_pool_finishes_its_steps_and_purges_its_sessions(world: World, tmp_path: Path) -> None:
    """Steps that run are finished; with `onPoolDeletion: Purge` nothing of the pool is left in Redis."""
    await world.patch(f"agentpool/{NAME}", {"spec": {"sessions": {"onPoolDeletion": "Purge"}}})
    await world.ready()
    with Journal(tmp_path / "journal.jsonl") as journal:  # compared with no log: there will be none
        async with await world.connect() as client:
            traffic = Traffic(client, journal)
            talks = [await traffic.open() for _ in range(3)]
            await asyncio.gather(*(talk.say("Begin.") for talk in talks))
            assert await world.keys()
            running = [asyncio.create_task(talk.say("Tell me a long story.", MEDIUM)) for talk in talks]
            await asyncio.gather(*(talk.streaming() for talk in talks))
            await deleted(world, NAME)
            for receipt in await asyncio.gather(*running):
                assert receipt.failovers_worker == 0
    assert await world.keys() == []


async def test_an_uninstall_leaves_what_the_notes_name(world: World) -> None:
    notes = await asyncio.to_thread(world.helm, "get", "notes", RELEASE)
    await asyncio.to_thread(world.helm, "uninstall", RELEASE)
    kinds = (
        "all,secret,configmap,pvc,sa,role,rolebinding,networkpolicy,pdb,hpa,lease,clusterrole,clusterrolebinding,crd"
    )
    objects = json.loads(await world.kubectl("get", kinds, "--output=json"))["items"]
    left = {
        f"{each['kind']} {each['metadata']['name']}"
        for each in objects
        if "roost" in each["metadata"]["name"] or each["metadata"].get("namespace") == NAMESPACE
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
