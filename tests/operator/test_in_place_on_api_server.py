"""An upgrade in place on a real API server: the operator writes into the live RayCluster what KubeRay would not."""

from typing import Any

import pytest
import redis.asyncio

from played_cluster import lease_at
from played_place import Place
from roost.store.keys import PoolKeys
from roost_operator.kubernetes import kinds
from roost_operator.plan import names

pytestmark = pytest.mark.timeout(180)


def workers(image: str) -> dict[str, Any]:
    template = {"spec": {"containers": [{"name": "worker", "image": image}]}}
    return {"replicas": 1, "upgrade": "InPlace", "template": template}


async def group(place: Place) -> dict[str, Any]:
    cluster = await place.api.get(kinds.CLUSTER, place.namespace, "p-c")
    assert cluster is not None
    worker_group: dict[str, Any] = cluster["spec"]["workerGroupSpecs"][0]
    return worker_group


async def test_a_worker_drains_before_its_pod_goes(place: Place) -> None:
    await place.pool("p", workers=workers("first"))
    await place.cluster("p")
    pod = await place.pod("p", {})
    await place.serves("p", pod)
    await place.told("p", "AllWorkersReady", within=60)
    keys, store = PoolKeys(f"{place.namespace}/p"), redis.asyncio.Redis.from_url(place.store_url)
    await place.pool("p", workers=workers("second"))

    async def told_to_drain() -> bool:
        return bool(await store.exists(keys.drain(pod)))

    await place.until("the worker is told to drain", told_to_drain)
    assert (await group(place))["template"]["spec"]["containers"][0]["image"] == "second"
    head = await place.api.get(kinds.CLUSTER, place.namespace, "p-c")
    assert head is not None
    assert head["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] == "second"
    assert not (await group(place)).get("scaleStrategy", {}).get("workersToDelete")
    await place.told("p", "Upgrading", says="0 of 1 workers take steps")
    await store.set(keys.lease(pod), lease_at("10.1.0.1", pod, draining=True).encode())

    async def let_go() -> bool:
        return (await group(place)).get("scaleStrategy", {}).get("workersToDelete") == [pod]

    await place.until("the pod is to go", let_go)
    assert (await group(place))["replicas"] == 1
    await place.api.delete(kinds.POD, place.namespace, pod)
    await store.zrem(keys.workers, pod)
    await place.serves("p")
    await place.told("p", "AllWorkersReady")
    pods = await place.api.of_pool(kinds.POD, place.namespace, "p", names.WORKER)
    made_from = (await group(place))["template"]["metadata"]["annotations"][names.TEMPLATE]
    assert [pod["metadata"]["annotations"][names.TEMPLATE] for pod in pods] == [made_from]
    await store.aclose()
