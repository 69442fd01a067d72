"""What is observed of a pool: everything that a plan is derived from. `kubernetes.gather` parses it once.

Only `Observed.children` are raw objects: they are compared as a whole with what is desired (`plan.difference`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roost.contract.pool_document import PoolDocument
from roost_operator.plan import names

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A child of the pool, in its namespace."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class AgentPoolObject:
    """The AgentPool, apart from its spec."""

    uid: str
    generation: int
    status: Manifest = field(default_factory=dict)
    has_finalizer: bool = False
    """Whether the operator's finalizer is set."""
    deleted_at: float | None = None
    """When its deletion was requested, in seconds since 1970."""
    unreadable: str = ""
    """Why the spec cannot be read; the planner then gets a stand-in for it (`api.stored`)."""


def marks(template: Manifest) -> Mapping[str, str]:
    """The digests that the operator put on a pod template."""
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    return {name: annotations[name] for name in (names.TEMPLATE, names.ARGUMENTS) if name in annotations}


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """A group of identical workers in a RayCluster."""

    name: str
    index: int = 0
    """Position in the RayCluster's list, by which a JSON patch names the group."""
    replicas: int = 0
    """How many pods KubeRay is to keep."""
    workers_to_delete: frozenset[str] = frozenset()
    """Pods that KubeRay was asked to delete; most of them are gone."""
    template: Manifest = field(default_factory=dict)
    start_params: Manifest = field(default_factory=dict)

    @property
    def marks(self) -> Mapping[str, str]:
        return marks(self.template)


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A RayCluster, live or desired."""

    name: str
    head: Manifest = field(default_factory=dict)
    """Its `headGroupSpec`."""
    groups: tuple[WorkerGroup, ...] = ()
    ray_version: str = ""
    keeps_state: bool = False
    """Whether its head keeps its state in Redis."""
    pod_failure: str | None = None
    """KubeRay's message when it cannot create or delete pods, for example over quota; None when it can."""

    @property
    def head_marks(self) -> Mapping[str, str]:
        return marks(self.head.get("template") or {})

    def group(self, name: str) -> WorkerGroup | None:
        """The group called `name`, or None."""
        return next((group for group in self.groups if group.name == name), None)


@dataclass(frozen=True, slots=True)
class ApplicationStatus:
    """What KubeRay reports of a Serve application."""

    status: str
    messages: tuple[str, ...] = ()
    """Messages of its deployments, then its own. Empty ones are left out."""


@dataclass(frozen=True, slots=True)
class RayService:
    """The pool's live RayService."""

    unnoticed_since: float | None = None
    """When it was created, in seconds since 1970, if KubeRay has not written a status yet; else None."""
    suspended: bool = False
    token_auth: bool = False
    """Whether its Ray cluster requires a token."""
    replicas: int | None = None
    """Replicas that Serve is asked for; None when the configuration does not say."""
    arguments: Mapping[str, Any] | None = None
    """Arguments of the Serve application; None when the configuration does not say."""
    active_cluster: str = ""
    pending_cluster: str = ""
    """The RayCluster that is to replace the active one."""
    refusal: str | None = None
    """KubeRay's message when it refuses the RayService."""
    applications: tuple[ApplicationStatus, ...] = ()
    """The pending cluster's first."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of Ray's head or of a worker."""

    name: str
    cluster: str
    """Its RayCluster."""
    group: str = ""
    """Its group in the RayCluster."""
    address: str = ""
    running: bool = False
    deleting: bool = False
    trouble: str = ""
    """The kubelet's or the scheduler's reason why it does not run, such as ImagePullBackOff."""
    message: str = ""
    template: str = ""
    """Digest of the template that it was created from (`names.TEMPLATE`)."""


@dataclass(frozen=True, slots=True)
class Ray:
    """What KubeRay runs for the pool."""

    installed: bool = True
    """Whether the cluster has the kind RayService."""
    token_auth: bool = False
    """Whether that kind has a field for Ray's token."""
    service: RayService | None = None
    cluster: RayCluster | None = None
    """The RayCluster that is to stay: the pending one of an upgrade, else the active one."""
    clusters: tuple[RayCluster, ...] = ()
    """All RayClusters of the pool, including those that are being deleted."""
    pods: tuple[Pod, ...] = ()
    """Worker pods of all clusters."""
    heads: tuple[Pod, ...] = ()

    def group(self, name: str) -> WorkerGroup | None:
        """The group called `name` of the cluster that is to stay, or None."""
        return self.cluster.group(name) if self.cluster else None

    @property
    def pod_failure(self) -> str | None:
        """KubeRay's message when it cannot create or delete pods of the cluster that is to stay."""
        return self.cluster.pod_failure if self.cluster else None

    def stays(self, pod: Pod) -> bool:
        """Whether `pod` belongs to the cluster that is to stay. True for every pod while there is no such cluster."""
        return self.cluster is None or pod.cluster == self.cluster.name

    def pods_of(self, group: WorkerGroup) -> tuple[Pod, ...]:
        """Pods of a group of the cluster that is to stay."""
        name = self.cluster.name if self.cluster else ""
        return tuple(pod for pod in self.pods if (pod.cluster, pod.group) == (name, group.name))


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker with a valid lease."""

    worker_id: str
    address: str
    """Host, without its port."""
    revision: str
    running: int = 0
    draining: bool = False
    tokens: int = 0
    """Cached tokens of all its sessions: what it would cost to rebuild them elsewhere."""
    drain_seconds: float | None = None
    """How long ago it was asked to drain; None when it was not."""
    limits: tuple[str, ...] = ()
    """Names of its model's limits."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """The session store, as far as it concerns the pool."""

    problem: str = ""
    """Why it does not answer, or refuses to write; empty when it serves."""
    weaknesses: tuple[str, ...] = ()
    """Settings by which committed steps could be lost, each with its fix."""
    document: PoolDocument | None = None
    """The pool's document as gateways read it."""
    named: bool = True
    """Whether the pool is in the list of pools that gateways serve."""
    young: bool = False
    """Whether it started or came back less than two lease periods ago: running workers may not have a lease yet."""

    @property
    def blind(self) -> bool:
        """Whether running workers may be missing from the leases. Then a worker without a lease is not taken to be
        gone, and only one whose lease says so is taken to be idle."""
        return bool(self.problem) or self.young


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the Secrets say that the spec names."""

    missing: tuple[str, ...] = ()
    """Secrets, or keys of them, that do not exist."""
    own_store_url: str = field(default="", repr=False)
    """Where a pool with its own store keeps its sessions; empty when it has none or its Secret does not say."""
    ray_store_url: str = field(default="", repr=False)
    """Where Ray's head may keep its state when the pool has its own store; empty for nowhere."""
    ray_token: str = field(default="", repr=False)
    """Ray's token in the pool's own Secret; empty when there is none yet."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One pool at one time."""

    now: float
    """Seconds since 1970, by the operator's clock; used for the ages of objects only."""
    pool: AgentPoolObject
    children: Mapping[Reference, Manifest] = field(default_factory=dict)
    ray: Ray = field(default_factory=Ray)
    workers: tuple[Worker, ...] = ()
    store: StoreState = field(default_factory=StoreState)
    sessions: tuple[int, int, int] | None = None
    """Hot, warm and cold sessions; None when they were not counted this time."""
    secrets: Secrets = field(default_factory=Secrets)
    pod_monitors: bool = False
    """Whether the cluster has the kind PodMonitor."""
    refused: str = ""
    """Why the API server refused a child that was just applied."""

    def worker_of(self, pod: Pod) -> Worker | None:
        """The worker that runs in `pod`, or None."""
        return next((worker for worker in self.workers if pod.address and worker.address == pod.address), None)

    def workers_in(self, pods: Sequence[Pod]) -> list[Worker]:
        """The workers that run in `pods`."""
        return [worker for pod in pods if (worker := self.worker_of(pod))]
