"""A Kubernetes in small, for plans of pools: does what they say as the API server, KubeRay, Serve and workers would."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from roost_operator.api.loader import parse_pool
from roost_operator.api.spec import AgentPool
from roost_operator.plan import names
from roost_operator.plan.difference import reference
from roost_operator.plan.installation import Installation
from roost_operator.plan.observed import AgentPoolObject, Manifest, Observed, Pod, Reference, Worker
from roost_operator.plan.plan import Plan, Resize, Stage, plan
from roost_operator.plan.ray_objects import parse_cluster, parse_service

SERVICE = Reference("RayService", "p")
INSTALLATION = Installation(pool_key="k" * 32)


def pool(
    replicas: int = 1, suspend: bool = False, source: str = "dummy://llama-tiny", store: str = "", **workers: Any
) -> AgentPool:
    """`store` names the Secret of a store of its own."""
    spec = {
        "models": [{"name": "m", "source": source, "contextTokens": 512}],
        "workers": {"replicas": replicas, "drainTimeoutSeconds": 10, **workers},
        "store": {"urlSecretRef": {"name": store}} if store else {},
        "suspend": suspend,
    }
    document = {"apiVersion": "roost.dev/v1alpha1", "kind": "AgentPool", "metadata": {"name": "p"}, "spec": spec}
    return parse_pool(yaml.safe_dump(document))


def observation(**pool: Any) -> Observed:
    """A pool of which nothing is there; `pool` are fields of the AgentPool."""
    return Observed(now=0.0, pool=AgentPoolObject(uid="u", generation=1, **pool))


def with_children(before: Observed, children: Mapping[Reference, Manifest]) -> Observed:
    """`before` with other live children."""
    live = children.get(SERVICE)
    ray = replace(before.ray, service=parse_service(live) if live else None)
    return replace(before, children=children, ray=ray)


def template(**container: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "worker", **container}]}}


@dataclass
class World:
    """A cluster in small: carries plans out as the API server, KubeRay, Serve and workers would."""

    observed: Observed = field(default_factory=observation)
    cluster: dict[str, Any] | None = None
    """The RayCluster that is to stay."""
    clusters: int = 0
    pods_created: int = 0
    wanted_removed: list[str] = field(default_factory=list)
    chosen_by_kuberay: int = 0
    """Pods that went since there were more than asked for and none was named: KubeRay takes any."""
    fewest: int = 99
    """Fewest workers that took steps at any time since `settle` began."""

    def do(self, planned: Plan) -> None:
        before = self.observed
        kept = {key: child for key, child in before.children.items() if key not in planned.delete}
        live = {**kept, **{reference(child): child for child in planned.apply}}
        workers = tuple(self._told(worker, planned.drain) for worker in before.workers)
        document = planned.document if planned.document is not None else before.store.document
        store = replace(before.store, document=None if planned.withdraw else document)
        stored = replace(before.pool, status=planned.status, has_finalizer=planned.stage is not Stage.FORGET)
        self.observed = replace(with_children(before, live), workers=workers, store=store, pool=stored)
        if planned.resize is not None:
            self._resize(planned.resize)

    def live_on(self) -> None:
        """Time passes: KubeRay makes its cluster and pods, pods start, workers publish and finish their steps."""
        live, ray = self.observed.children.get(SERVICE), self.observed.ray
        if live is None or ray.service is None:
            self.cluster = None
            self.observed = replace(self.observed, ray=replace(ray, cluster=None, pods=()), workers=())
            return
        cluster = self.cluster = self._cluster_of(live)
        size = 0 if cluster["spec"]["suspend"] else cluster["spec"]["workerGroupSpecs"][0]["replicas"]
        mine = [pod for pod in ray.pods if pod.cluster == cluster["metadata"]["name"]]
        kept = [pod for pod in mine if not pod.deleting]
        self.chosen_by_kuberay += max(0, len(kept) - size) if size else 0
        pods = kept[:size]
        pods = pods + [self._pod(cluster) for _ in range(size - len(pods))]
        pods = [replace(pod, running=True) for pod in pods]
        others = [pod for pod in ray.pods if pod not in mine and not self._is_over(pod)]
        running = min(len(pods), ray.service.replicas or 0)
        workers = self._served(pods[:running], names.digest(ray.service.arguments))
        workers += [self._grown(worker) for pod in others if (worker := self.observed.worker_of(pod))]
        ray = replace(ray, cluster=parse_cluster(cluster), pods=(*pods, *others))
        self.observed = replace(self.observed, ray=ray, workers=tuple(workers), now=self.observed.now + 1)
        self.fewest = min(self.fewest, sum(worker.drain_seconds is None for worker in workers))

    def _cluster_of(self, service: Manifest) -> dict[str, Any]:
        """As KubeRay 1.6: an own cluster for what is new, a changed `suspend` in place and with it all else, and
        nothing at all when the strategy is None."""
        config, live = service["spec"]["rayClusterConfig"], self.cluster
        if live is None:
            return self._new_cluster(config)
        if live["spec"]["suspend"] != config["suspend"]:
            return {**live, "spec": config}
        same = all(self._marks(live["spec"], part) == self._marks(config, part) for part in ("head", "group"))
        if same or service["spec"]["upgradeStrategy"]["type"] == "None":
            return live
        return self._new_cluster(config)

    def _new_cluster(self, config: Any) -> dict[str, Any]:
        self.clusters += 1
        return {"metadata": {"name": f"c-{self.clusters}"}, "spec": config}

    def _marks(self, config: Any, part: str) -> Any:
        template = (config["headGroupSpec"] if part == "head" else config["workerGroupSpecs"][0])["template"]
        return template["metadata"]["annotations"]

    def _is_over(self, pod: Pod) -> bool:
        """Whether an old cluster's pod goes: KubeRay waits for the drain time, in which its worker drains."""
        worker = self.observed.worker_of(pod)
        return worker is None or (worker.drain_seconds is not None and worker.running == 0)

    def _served(self, pods: list[Pod], revision: str) -> list[Worker]:
        """Serve gives each pod a worker; of those with other arguments it restarts one at a time."""
        known = {worker.address: worker for worker in self.observed.workers}
        workers = [self._grown(known.get(pod.address) or self._worker(pod, revision)) for pod in pods]
        old = next((worker for worker in workers if worker.revision != revision), None)
        return [replace(worker, revision=revision) if worker is old else worker for worker in workers]

    def _resize(self, resize: Resize) -> None:
        self.wanted_removed += resize.remove
        assert self.cluster is not None
        spec = copy.deepcopy(self.cluster["spec"])
        group = spec["workerGroupSpecs"][resize.group.index]
        group["replicas"] = resize.pods
        if resize.remove:
            group["scaleStrategy"] = {"workersToDelete": list(resize.remove)}
        for path, value in (resize.rewrite or {}).items():
            place = group if path.startswith(f"/spec/workerGroupSpecs/{resize.group.index}/") else spec
            place[path.rsplit("/", 1)[1]] = value
        ray = self.observed.ray
        pods = tuple(replace(pod, deleting=pod.deleting or pod.name in resize.remove) for pod in ray.pods)
        self.cluster = {**self.cluster, "spec": spec}
        self.observed = replace(self.observed, ray=replace(ray, cluster=parse_cluster(self.cluster), pods=pods))

    def _pod(self, cluster: dict[str, Any]) -> Pod:
        self.pods_created += 1
        made_from = self._marks(cluster["spec"], "group")[names.TEMPLATE]
        name = cluster["metadata"]["name"]
        group = cluster["spec"]["workerGroupSpecs"][0]["groupName"]
        return Pod(f"pod-{self.pods_created}", name, group, address=f"10.0.0.{self.pods_created}", template=made_from)

    def _worker(self, pod: Pod, revision: str) -> Worker:
        return Worker(worker_id=f"w-{pod.name}", address=pod.address, revision=revision)

    def _told(self, worker: Worker, drain: frozenset[str]) -> Worker:
        if worker.worker_id not in drain:
            return replace(worker, drain_seconds=None, draining=False)
        return replace(worker, drain_seconds=worker.drain_seconds or 0.0)

    def _grown(self, worker: Worker) -> Worker:
        if worker.drain_seconds is None:
            return worker
        return replace(
            worker, draining=True, running=max(0, worker.running - 1), drain_seconds=worker.drain_seconds + 1
        )

    def settle(self, wanted: AgentPool) -> Plan:
        """Plans and does until nothing changes any more."""
        self.fewest = 99
        for _ in range(60):
            planned = plan(wanted, INSTALLATION, self.observed)
            before = self.observed
            self.do(planned)
            self.live_on()
            if planned.idle and planned.document is None and _timeless(before) == _timeless(self.observed):
                return planned
        raise AssertionError(f"does not settle: {planned.stage}")


def by_type(conditions: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Conditions of a status by their types."""
    return {condition["type"]: condition for condition in conditions}


def _timeless(observed: Observed) -> Observed:
    return replace(observed, now=0, pool=replace(observed.pool, status={}))
