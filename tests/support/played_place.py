"""A namespace with a running operator, in which a test plays KubeRay, the kubelet and workers by their own words."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from api_server import ApiServer
from built_binaries import kuberay_definitions
from operator_process import OperatorProcess, grant, tail
from played_cluster import cluster_document, create_pool, lease_at
from redis_servers import RedisServer
from roost.store.keys import PoolKeys
from roost_operator.api.spec import API_VERSION
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, Document
from roost_operator.kubernetes.kinds import Kind
from roost_operator.plan import names

FORGET_MS = 86_400_000
KUBERAY = ("rayservices", "rayclusters")
USUAL = {"ROOST_RESYNC_SECONDS": "10", "ROOST_LEASE_SECONDS": "15"}
"""The operator's own timing."""


@dataclass
class Place:
    """A namespace in which cases are played, all at once, each with a pool of its own name."""

    api: Api
    namespace: str
    store_url: str
    addresses: int = 0
    told_after: dict[str, float] = field(default_factory=dict)
    """Seconds from a fact to its reason in the pool's conditions."""

    async def pool(self, name: str, **spec: Any) -> None:
        """Creates or changes a pool."""
        model = {"name": "m", "source": "dummy://llama-tiny", "contextTokens": 512}
        full = {"models": [model], "workers": {"replicas": 1}, "roles": [{"name": "a", "maxOutputTokensPerStep": 64}]}
        body = {"apiVersion": API_VERSION, "kind": "AgentPool", "metadata": {"name": name}, "spec": {**full, **spec}}
        await create_pool(self.api, self.namespace, body)

    async def secret(self, name: str, **values: str) -> None:
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}
        await self.api.create(kinds.SECRET, self.namespace, body)

    async def cluster(self, name: str) -> None:
        """What KubeRay does with a RayService first."""
        service = await self._exists(kinds.SERVICE, name)
        await self.api.create(kinds.CLUSTER, self.namespace, cluster_document(service, f"{name}-c"))
        await self.service_says(name, {})

    async def service_says(self, name: str, applications: Document) -> None:
        """The RayService's status, as KubeRay copies it from Serve."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {"type": "Ready", "status": "False", "reason": "Initializing", "message": "initializing"}
        pending = {"rayClusterName": f"{name}-c", "applicationStatuses": applications}
        status = {"conditions": [{**condition, "lastTransitionTime": now}], "pendingServiceStatus": pending}
        await self._status(kinds.SERVICE, name, status)

    async def pod(self, name: str, status: Document, component: str = names.WORKER) -> str:
        """A pod of the pool's cluster with what the kubelet or the scheduler says of it."""
        cluster = await self._exists(kinds.CLUSTER, f"{name}-c")
        spec = cluster["spec"]
        group = spec["headGroupSpec"] if component == names.HEAD else spec["workerGroupSpecs"][0]
        made_from = group["template"]["metadata"]
        self.addresses += 1
        pod = f"{name}-{component}-{self.addresses}"
        labels = {**made_from["labels"], "ray.io/cluster": f"{name}-c", "ray.io/node-type": component}
        labels["ray.io/group"] = group.get("groupName", "headgroup")
        metadata = {"name": pod, "labels": labels, "annotations": made_from["annotations"]}
        container = {"name": component, "image": "none"}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
        await self.api.create(kinds.POD, self.namespace, body)
        await self._status(kinds.POD, pod, status)
        return pod

    async def serves(self, name: str, pod: str = "", store_url: str = "") -> None:
        """The pod runs, and its worker publishes its lease."""
        pod = pod or await self.pod(name, {})
        address = f"10.1.0.{self.addresses}"
        clear: Document = {"containerStatuses": [], "initContainerStatuses": [], "conditions": []}
        await self._status(kinds.POD, pod, {**clear, "phase": "Running", "podIP": address, "podIPs": [{"ip": address}]})
        keys, store = PoolKeys(f"{self.namespace}/{name}"), redis.asyncio.Redis.from_url(store_url or self.store_url)
        try:
            await store.set(keys.lease(pod), lease_at(address, pod).encode())
            await store.zadd(keys.workers, {pod: int(time.time() * 1000) + FORGET_MS})
        finally:
            await store.aclose()

    async def told(
        self, name: str, reason: str, *, kind: str = "Ready", says: str = "", within: float = 30.0
    ) -> Document:
        """Waits until the condition has the reason and its message holds `says`; returns it. Raises TimeoutError."""
        start, condition = time.monotonic(), None
        while time.monotonic() - start < within:
            pool = await self.api.get(kinds.POOL, self.namespace, name)
            conditions = ((pool or {}).get("status") or {}).get("conditions") or []
            condition = next((item for item in conditions if item["type"] == kind), None)
            if condition is not None and condition["reason"] == reason and says in condition["message"]:
                self.told_after[f"{name}: {reason}"] = time.monotonic() - start
                return dict(condition)
            await asyncio.sleep(0.2)  # the operator is a process of its own
        raise TimeoutError(f"{name}: not {reason} within {within} s but {condition}")

    async def mends(self, name: str, pod: str = "", store_url: str = "") -> None:
        """A worker serves, and the pool's conditions say so."""
        await self.serves(name, pod, store_url)
        await self.told(name, "AllWorkersReady")
        await self.told(name, "AsExpected", kind="Degraded")

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]], within: float = 30.0) -> None:
        """Waits for what the operator, a process of its own, does. Raises TimeoutError."""
        start = time.monotonic()
        while not await holds():
            if time.monotonic() - start > within:
                raise TimeoutError(what)
            await asyncio.sleep(0.1)

    async def _exists(self, kind: Kind, name: str) -> Document:
        while True:
            stored = await self.api.get(kind, self.namespace, name)
            if stored is not None:
                return stored
            await asyncio.sleep(0.1)  # the operator is a process of its own

    async def _status(self, kind: Kind, name: str, status: Document) -> None:
        await self.api.patch(kind, self.namespace, name, {"status": status}, subresource="status")


def install_kuberay(server: ApiServer) -> None:
    """Its definitions; the operator is played."""
    definitions = kuberay_definitions()
    if definitions is None:
        pytest.skip("no KubeRay definitions; run `make binaries`")
    for name in KUBERAY:
        server.kubectl("apply", "--server-side", "-f", str(definitions / f"ray.io_{name}.yaml"))
    server.await_established(*(f"crd/{name}.ray.io" for name in KUBERAY))


@pytest.fixture
async def place(api_server: ApiServer, redis_server: RedisServer, namespace: str) -> AsyncIterator[Place]:
    """A namespace of the test's own, and an operator with its usual rights and timing."""
    install_kuberay(api_server)
    grant(api_server, "operator", namespace)
    operator = OperatorProcess(api_server, redis_server.url, namespace, "only", environment=USUAL)
    api = await Api.connect(kubeconfig=Path(api_server.kubeconfig()))
    try:
        yield Place(api, namespace, redis_server.url)
    finally:
        await api.aclose()
        operator.kill()
        print(tail(operator.log))
