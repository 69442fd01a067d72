"""What KubeRay, the kubelet and the workers do, played on an API server that has none of them: RayClusters of
RayServices, pods of RayClusters, leases of workers. Real objects in the real API; nothing runs.

Each call of `play` brings one pool a step further, as a level-based controller would.
"""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import redis.asyncio
import yaml

from leases import lease_of
from roost.contract.lease import WorkerLease
from roost.store.keys import PoolKeys
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, Document
from roost_operator.plan import names

_FOREVER_MS = 86_400_000


class PlayedCluster:
    """Acts as an administrator. One pool must not be played twice at once."""

    def __init__(self, api: Api, store_url: str) -> None:
        self._api = api
        self._store: Any = redis.asyncio.Redis.from_url(store_url)
        self._addresses: Iterator[int] = itertools.count(1)
        self.running: dict[str, int] = {}
        """Steps that a worker, known by its pod, says it runs."""

    async def aclose(self) -> None:
        await self._store.aclose()

    async def play(self, namespace: str, name: str) -> None:
        """One step of everything."""
        service = await self._api.get(kinds.SERVICE, namespace, name)
        pods = await self._pods(namespace, name)
        if service is None or "deletionTimestamp" in service["metadata"]:
            await self._publish(f"{namespace}/{name}", pods, 0)
            return
        cluster = await self._suspended(await self._cluster(service), service)
        pods = await self._resize(cluster, [pod for pod in pods if _cluster_of(pod) == _name(cluster)])
        await self._publish(f"{namespace}/{name}", pods, _replicas(service))

    async def _cluster(self, service: Document) -> Document:
        """The RayCluster of the service's present configuration; another configuration makes another cluster."""
        namespace, config = service["metadata"]["namespace"], service["spec"]["rayClusterConfig"]
        wanted = f"{_name(service)}-{_identity(config)}"
        status = service.get("status") or {}
        before = (status.get("activeServiceStatus") or {}).get("rayClusterName")
        cluster = await self._api.get(kinds.CLUSTER, namespace, wanted)
        if cluster is None:
            cluster = await self._api.create(kinds.CLUSTER, namespace, cluster_document(service, wanted))
        if before != wanted:
            body = {"status": {"activeServiceStatus": {"rayClusterName": wanted}}}
            await self._api.patch(kinds.SERVICE, namespace, _name(service), body, subresource="status")
            if before:
                await self._api.delete(kinds.CLUSTER, namespace, before)
                for pod in await self._pods(namespace, _name(service)):
                    if _cluster_of(pod) == before:
                        await self._api.delete(kinds.POD, namespace, _name(pod))
        return cluster

    async def _suspended(self, cluster: Document, service: Document) -> Document:
        """Suspended as its service is."""
        wanted = bool(service["spec"]["rayClusterConfig"].get("suspend"))
        if bool(cluster["spec"].get("suspend")) == wanted:
            return cluster
        body = {"spec": {"suspend": wanted}}
        return await self._api.patch(kinds.CLUSTER, cluster["metadata"]["namespace"], _name(cluster), body)

    async def _resize(self, cluster: Document, pods: list[Document]) -> list[Document]:
        group = cluster["spec"]["workerGroupSpecs"][0]
        wanted = 0 if cluster["spec"].get("suspend") else int(group["replicas"])
        victims = (group.get("scaleStrategy") or {}).get("workersToDelete") or []
        kept = [pod for pod in pods if _name(pod) not in victims][:wanted]
        for pod in pods:
            if pod not in kept:
                await self._api.delete(kinds.POD, pod["metadata"]["namespace"], _name(pod))
        return kept + [await self._start(cluster, group) for _ in range(wanted - len(kept))]

    async def _start(self, cluster: Document, group: Document) -> Document:
        """A pod that runs, as far as anybody can see."""
        template = group["template"]
        number, namespace = next(self._addresses), cluster["metadata"]["namespace"]
        labels = {
            **template["metadata"]["labels"],
            "ray.io/cluster": _name(cluster),
            "ray.io/group": group["groupName"],
        }
        metadata = {"name": f"{_name(cluster)}-{number}", "labels": labels, "ownerReferences": [_owner(cluster)]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        await self._api.create(kinds.POD, namespace, pod)
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
        return await self._api.patch(kinds.POD, namespace, str(metadata["name"]), status, subresource="status")

    async def _publish(self, pool: str, pods: list[Document], replicas: int) -> None:
        """Leases of the first pods, which serve; those of others are withdrawn."""
        keys, now = PoolKeys(pool), int(time.time() * 1000)
        known = {worker.decode() for worker in await self._store.zrange(keys.workers, 0, -1)}
        serving = {_name(pod): pod for pod in pods[:replicas]}
        for worker in known - set(serving):
            await self._store.zrem(keys.workers, worker)
            await self._store.delete(keys.lease(worker), keys.residency(worker), keys.drain(worker))
        for worker, pod in serving.items():
            draining = bool(await self._store.exists(keys.drain(worker)))
            lease = lease_at(pod["status"]["podIP"], worker, running=self.running.get(worker, 0), draining=draining)
            await self._store.set(keys.lease(worker), lease.encode())
            if worker not in known:
                await self._store.zadd(keys.workers, {worker: now + _FOREVER_MS})

    async def _pods(self, namespace: str, name: str) -> list[Document]:
        labels = {names.POOL_LABEL: name, names.COMPONENT_LABEL: names.WORKER}
        pods = await self._api.select(kinds.POD, namespace, labels)
        return sorted((pod for pod in pods if "deletionTimestamp" not in pod["metadata"]), key=_name)


async def create_pool(api: Api, namespace: str, document: Document) -> None:
    """Creates or changes a pool as a user would with `kubectl apply --server-side`."""
    path = kinds.POOL.path(namespace, document["metadata"]["name"])
    query = [("fieldManager", "user"), ("force", "true")]
    await api._call("PATCH", path, document, query, "application/apply-patch+yaml")


def lease_at(address: str, worker: str, **fields: Any) -> WorkerLease:
    """The lease of a worker in the pod with this address."""
    return lease_of(worker, address=f"{address}:{names.WORKER_PORT}", **fields)


def cluster_document(service: Document, name: str) -> Document:
    """The RayCluster that KubeRay makes of a RayService."""
    metadata = {"name": name, "labels": service["metadata"]["labels"], "ownerReferences": [_owner(service)]}
    config = service["spec"]["rayClusterConfig"]
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": config}


def _owner(document: Document) -> dict[str, Any]:
    reference = {name: document[name] for name in ("apiVersion", "kind")}
    own = {"name": _name(document), "uid": document["metadata"]["uid"]}
    return {**reference, **own, "controller": True, "blockOwnerDeletion": True}


def _identity(config: Document) -> str:
    """KubeRay's hash of a configuration leaves sizes and suspension out."""
    group = {key: value for key, value in config["workerGroupSpecs"][0].items() if key not in ("replicas",)}
    rest = {key: value for key, value in config.items() if key not in ("suspend", "workerGroupSpecs")}
    return names.digest([group, rest])[:8]


def _replicas(service: Document) -> int:
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    return int(serve["applications"][0]["deployments"][0]["num_replicas"])


def _cluster_of(pod: Document) -> str:
    return str(pod["metadata"]["labels"].get("ray.io/cluster", ""))


def _name(document: Document) -> str:
    return str(document["metadata"]["name"])
