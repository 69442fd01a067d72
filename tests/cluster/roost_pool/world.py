"""One installation of the chart with one pool on the cluster for tests, and what tests ask and do there."""

import asyncio
import base64
import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis.asyncio

from roost import Client, RetryConfig
from roost.store.keys import PoolKeys
from roost_cluster.chart_values import chart_values
from roost_cluster.cluster import Cluster
from roost_cluster.helm import Helm
from roost_cluster.volumes import static_volume
from roost_operator.kubernetes.pool_store import PoolStore
from roost_operator.plan.observed import Worker
from roost_pool import manifests
from roost_pool.waiting import until

CHART = Path(__file__).parents[3] / "charts/roost"
NAMESPACE = "roost-e2e"
RELEASE = "roost"
START_SECONDS = 240.0
"""What a Ray cluster with a worker may take on two busy cores."""
_PATIENT = RetryConfig(give_up_after=240.0)
Document = dict[str, Any]


class World:
    """The installation `roost` in its namespace. Blocking methods are for fixtures, the others for tests."""

    def __init__(self, cluster: Cluster, scratch: Path) -> None:
        assert cluster.layout is not None
        self.cluster, self.namespace, self.values = cluster, NAMESPACE, scratch / "values.json"
        self._here = ("--namespace", NAMESPACE)
        self.helm = Helm(cluster, NAMESPACE)
        self.notes = ""
        """What `helm install` said."""

    @property
    def pool(self) -> str:
        """The pool's full name."""
        return f"{NAMESPACE}/{manifests.NAME}"

    def install(self) -> None:
        """Volumes for Redis and for models, and the chart; returns when all of it is available."""
        kubectl, volumes = self.cluster.kubectl, self.cluster.layout.volumes  # type: ignore[union-attr]  # our own
        kubectl.run("create", "namespace", NAMESPACE)
        models = volumes / f"{NAMESPACE}-models"
        kubectl.apply(
            static_volume(NAMESPACE, f"data-{RELEASE}-redis-0", volumes / f"{NAMESPACE}-redis"),
            static_volume(NAMESPACE, manifests.CACHE_CLAIM, models),
        )
        manifests.fill_model_cache(models)
        kubectl.apply(manifests.claim(), arguments=self._here)
        self.values.write_text(json.dumps(chart_values()))
        self.notes = self.helm("install", RELEASE, str(CHART), "--values", str(self.values))
        for name in ("statefulset/roost-redis", "deployment/roost-gateway", "deployment/roost-operator"):
            kubectl.run("rollout", "status", name, "--timeout=120s", *self._here, seconds=130)

    async def kubectl(self, *arguments: str, seconds: float = 120.0) -> str:
        """Output of kubectl in the namespace. Raises ClusterError."""
        return await asyncio.to_thread(self.cluster.kubectl.run, *arguments, *self._here, seconds=seconds)

    async def get(self, *arguments: str) -> Any:
        """An object, or a list of them."""
        return json.loads(await self.kubectl("get", *arguments, "--output=json"))

    async def exists(self, *arguments: str) -> bool:
        return bool(await self.kubectl("get", *arguments, "--ignore-not-found", "--output=name"))

    async def apply(self, *objects: Mapping[str, Any]) -> None:
        await asyncio.to_thread(self.cluster.kubectl.apply, *objects, arguments=self._here)

    async def patch(self, name: str, body: Mapping[str, Any], *arguments: str) -> None:
        """A merge patch of `kind/name`."""
        await self.kubectl("patch", name, "--type=merge", f"--patch={json.dumps(body)}", *arguments)

    async def conditions(self, name: str = manifests.NAME) -> dict[str, str]:
        """Type → status and reason, of the pool's present generation."""
        pool = await self.get("agentpool", name)
        generation = pool["metadata"]["generation"]
        return {
            condition["type"]: f"{condition['status']} {condition['reason']}"
            for condition in (pool.get("status") or {}).get("conditions") or ()
            if condition["observedGeneration"] == generation
        }

    async def ready(self, name: str = manifests.NAME, seconds: float = START_SECONDS) -> None:
        """Waits until all workers that the pool's present spec wants take steps and nothing is to change. Where there
        is no pool of tests yet, the sample is applied.

        The status of a pool counts a worker that was just killed until its lease has run out, and not one that still
        leaves, so its pods and its leases are asked, too."""
        if name == manifests.NAME and not await self.exists("agentpool", name):
            await self.apply(manifests.sample())

        async def settled() -> bool:
            if (await self.conditions(name)).get("Ready") != "True AllWorkersReady":
                return False
            status = (await self.get(f"agentpool/{name}"))["status"]
            pods = (await self.get("pods", f"--selector={status['selector']}"))["items"]
            ready = [pod for pod in pods if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
            workers = await self.workers(f"{self.namespace}/{name}")
            return len(ready) == len(workers) == int(status["workers"]["desired"])

        await until(f"pool {name} to settle", settled, seconds)

    async def pods(self, component: str, *, alive: bool = True) -> list[Document]:
        """Pods of `gateway`, `operator` or `redis`, or of the pool's `head` or `worker`; without those that end."""
        label = "roost.dev/component" if component in ("head", "worker") else "app.kubernetes.io/component"
        pods = (await self.get("pods", f"--selector={label}={component}"))["items"]
        return [pod for pod in pods if not (alive and "deletionTimestamp" in pod["metadata"])]

    async def pod(self, component: str) -> Document:
        """The only pod of a component."""
        (pod,) = await self.pods(component)
        return pod

    async def kill(self, pod: Document) -> None:
        """Deletes a pod without the time to end well; it is gone when this returns."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        await self.kubectl("delete", "pod", name, "--grace-period=1", "--wait=false")

        async def gone() -> bool:
            live = json.loads(await self.kubectl("get", "pod", name, "--ignore-not-found", "--output=json") or "{}")
            return bool(live.get("metadata", {}).get("uid") != uid)

        await until(f"the end of pod {name}", gone, 60)

    async def drawn_secrets(self) -> dict[str, dict[str, str]]:
        """Names of the Secrets that the installation drew, and what is in them."""
        secrets = (await self.get("secrets", "--selector=app.kubernetes.io/part-of=roost"))["items"]
        return {secret["metadata"]["name"]: secret["data"] for secret in secrets}

    async def secret(self, name: str, key: str) -> str:
        return base64.b64decode((await self.get("secret", name))["data"][key]).decode()

    async def workers(self, pool: str | None = None) -> tuple[Worker, ...]:
        """Workers whose leases are in force, as the operator sees them."""
        store = PoolStore(await self.store_url())
        try:
            seen, workers = await store.observe(pool or self.pool)
        finally:
            await store.aclose()
        assert not seen.problem, seen.problem
        return workers

    async def keys(self) -> list[str]:
        """Keys of the pool in Redis."""
        client = redis.asyncio.Redis.from_url(await self.store_url())
        try:
            return [key.decode() async for key in client.scan_iter(match=f"{PoolKeys(self.pool).prefix}:*", count=500)]
        finally:
            await client.aclose()

    async def store_url(self) -> str:
        """URL of Redis with the operator's rights, by its ClusterIP: the host knows no cluster names."""
        address = (await self.get("service", f"{RELEASE}-redis"))["spec"]["clusterIP"]
        url = await self.secret(f"{RELEASE}-store", "operator-url")
        return url.replace(f"{RELEASE}-redis.{NAMESPACE}.svc", address)

    async def worker_pod(self, worker_id: str) -> Document:
        """The pod in which a worker runs."""
        (address,) = {worker.address for worker in await self.workers() if worker.worker_id == worker_id}
        (pod,) = [pod for pod in await self.pods("worker") if pod["status"].get("podIP") == address]
        return pod

    async def operator_metrics(self) -> dict[str, float]:
        """The operator's metrics, each summed over its labels."""
        url = f"http://{(await self.pod('operator'))['status']['podIP']}:9090/metrics"
        lines = (await asyncio.to_thread(_read, url)).splitlines()
        sums: dict[str, float] = {}
        for name, value in (line.rsplit(" ", 1) for line in lines if line and line[0] != "#"):
            sums[name.partition("{")[0]] = sums.get(name.partition("{")[0], 0.0) + float(value)
        return sums

    async def connect(self, target: str | None = None, pool: str | None = None) -> Client:
        """A client of all gateways, with the drawn API key; `target` replaces the pods' own addresses, `pool` the pool
        of all tests."""
        addresses = [pod["status"]["podIP"] for pod in await self.pods("gateway") if is_ready(pod)]
        key = await self.secret(f"{RELEASE}-api-keys", "first-key")
        targets = [target] if target else [f"{address}:7070" for address in addresses]
        return await Client.connect(targets, api_key=key, pool=pool or self.pool, timeout=120.0, retry=_PATIENT)


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as reply:
        text: str = reply.read().decode()
    return text


def is_ready(pod: Document) -> bool:
    """Whether a pod's probes succeed."""
    conditions = pod["status"].get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
