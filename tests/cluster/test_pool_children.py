"""What a pool owns comes back when it is deleted, and is mended when it is edited, while sessions go on."""

from typing import Any

import pytest

from roost_cluster.chart_values import difference
from roost_pool.manifests import NAME
from roost_pool.traffic import Traffic
from roost_pool.waiting import until, until_none
from roost_pool.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CHILDREN = (
    f"serviceaccount/{NAME}-worker",
    f"secret/{NAME}-worker",
    f"poddisruptionbudget/{NAME}-worker",
    f"networkpolicy/{NAME}-worker",
    f"networkpolicy/{NAME}-head",
)
"""All but the RayService, whose deletion stops the workers (test_pool_chaos.py)."""
EDITS: dict[str, dict[str, Any]] = {
    f"serviceaccount/{NAME}-worker": {"automountServiceAccountToken": True},
    f"secret/{NAME}-worker": {"data": {"pool-secret": "Zm9yZ2Vk"}},
    f"poddisruptionbudget/{NAME}-worker": {"spec": {"minAvailable": 9}},
    f"networkpolicy/{NAME}-worker": {"spec": {"ingress": [{}]}},
    f"networkpolicy/{NAME}-head": {"metadata": {"labels": {"roost.dev/pool": None}}},
    f"rayservice/{NAME}": {"spec": {"rayClusterDeletionDelaySeconds": 999}},
}
IGNORED = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")
RECONCILED, CHANGED = "roost_operator_reconcile_seconds_count", "roost_operator_mutating_calls_total"
MENDED_SECONDS = 30.0
"""A deletion is told by no watch: the resync sees it, within 10 s."""


def essence(document: dict[str, Any]) -> Any:
    """An object without what the server counts, its status, and what is empty, which KubeRay writes and we do not."""
    metadata = {key: value for key, value in document["metadata"].items() if key not in IGNORED}
    return pruned({**{key: value for key, value in document.items() if key != "status"}, "metadata": metadata})


def pruned(value: Any) -> Any:
    """`value` without empty members."""
    if isinstance(value, dict):
        kept = {name: pruned(member) for name, member in value.items()}
        return {name: member for name, member in kept.items() if member not in ({}, [], None)}
    return [pruned(member) for member in value] if isinstance(value, list) else value


async def test_deleted_and_edited_children_come_back(world: World, traffic: Traffic) -> None:
    before = {name: essence(await world.get(name)) for name in (*CHILDREN, *EDITS)}
    pods = {pod["metadata"]["uid"] for pod in [*await world.pods("head"), *await world.pods("worker")]}

    async def wrong() -> list[str]:
        live = {name: await world.exists(name) and essence(await world.get(name)) for name in before}
        missing = [name for name, document in live.items() if not document]
        pairs = [(name, before[name], document) for name, document in live.items() if document]
        edited = [line for name, old, new in pairs for line in difference(old, new, name)]
        added = [line for name, old, new in pairs for line in difference(new, old, name)]
        return [*missing, *edited, *added]

    async with traffic.flowing():
        for name in CHILDREN:
            await world.kubectl("delete", name)
        await until_none("deleted children to come back", wrong, MENDED_SECONDS)
        for name, edit in EDITS.items():
            await world.patch(name, edit)
        await until_none("edited children to be mended", wrong, MENDED_SECONDS)
    assert pods == {pod["metadata"]["uid"] for pod in [*await world.pods("head"), *await world.pods("worker")]}


async def test_a_settled_pool_is_left_alone(world: World) -> None:
    """Two resyncs in a row send nothing. The counts of sessions may still change once or twice before."""
    await world.ready()

    async def quiet() -> bool:
        before = await world.operator_metrics()

        async def resynced() -> bool:
            return (await world.operator_metrics())[RECONCILED] >= before[RECONCILED] + 2

        await until("two resyncs", resynced, 60)
        return (await world.operator_metrics())[CHANGED] == before[CHANGED]

    await until("resyncs that send nothing", quiet, 60)
