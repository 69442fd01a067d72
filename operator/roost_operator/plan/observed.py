"""What was seen of a pool: everything that a plan is derived from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from roost.contract.pool_document import PoolDocument

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A child of the pool, in its namespace."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of Ray's head or of a worker."""

    name: str
    cluster: str
    """Its RayCluster."""
    address: str = ""
    running: bool = False
    deleting: bool = False
    trouble: str = ""
    """Reason of the kubelet or the scheduler why it does not run, such as ImagePullBackOff."""
    message: str = ""
    template: str = ""
    """Digest of the template that it was made from (`names.TEMPLATE`)."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's lease in force."""

    worker_id: str
    address: str
    """Host, without its port."""
    revision: str
    running: int = 0
    draining: bool = False
    tokens: int = 0
    """Cached tokens of all its sessions: what it would cost to rebuild them elsewhere."""
    drain_seconds: float | None = None
    """How long ago it was told to drain; None: it was not."""


@dataclass(frozen=True, slots=True)
class Store:
    """The session store."""

    problem: str = ""
    """Why it does not answer; empty when it does."""
    weaknesses: tuple[str, ...] = ()
    """Settings by which committed steps could be lost, each with its fix."""
    document: PoolDocument | None = None
    """The pool's document as gateways read it."""
    named: bool = True
    """Whether the pool is among those that gateways look for."""
    young: bool = False
    """Whether it was started, or came back, less than two lease periods ago: workers may run that have no lease yet."""

    @property
    def blind(self) -> bool:
        """Whether it cannot be seen who runs: then no worker counts as gone, and none as idle but those seen so."""
        return bool(self.problem) or self.young


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything seen of one pool at one time."""

    uid: str
    generation: int
    now: float
    """Seconds since 1970, by the operator's clock; used for nothing but the ages of objects."""
    deleted_at: float | None = None
    finalizer: bool = False
    status: Manifest = field(default_factory=dict)
    children: Mapping[Reference, Manifest] = field(default_factory=dict)
    cluster: Manifest | None = None
    """The RayCluster that is to stay: the pending one of an upgrade, else the active one."""
    clusters: tuple[Manifest, ...] = ()
    """All RayClusters of the pool, those that are going too."""
    pods: tuple[Pod, ...] = ()
    """Worker pods, of all of the pool's clusters."""
    heads: tuple[Pod, ...] = ()
    """Pods of Ray's heads."""
    workers: tuple[Worker, ...] = ()
    store: Store = field(default_factory=Store)
    sessions: tuple[int, int, int] | None = None
    """Sessions hot, warm and cold; None when they were not counted this time."""
    kuberay: bool = True
    monitors: bool = False
    """Whether the cluster knows PodMonitor."""
    missing_secrets: tuple[str, ...] = ()
    """Secrets, or keys of them, that the spec names and that do not exist."""
    own_store_url: str = field(default="", repr=False)
    """Where a pool with a store of its own keeps its sessions; empty: it has none, or its Secret does not say."""
    ray_store_url: str = field(default="", repr=False)
    """Where Ray's head may keep its state when the pool has a store of its own; empty: nowhere."""
    unreadable: str = ""
    """Why the spec cannot be read; the pool is then a stand-in of what could be (`api.stored`)."""
    refused: str = ""
    """Why the API server refused a child when it was applied last."""

    @property
    def service(self) -> Manifest | None:
        """The live RayService."""
        return next((child for reference, child in self.children.items() if reference.kind == "RayService"), None)

    @property
    def cluster_pods(self) -> tuple[Pod, ...]:
        """Worker pods of the RayCluster that is to stay."""
        name = self.cluster["metadata"]["name"] if self.cluster else ""
        return tuple(pod for pod in self.pods if pod.cluster == name)

    def worker_of(self, pod: Pod) -> Worker | None:
        """The worker that runs in `pod`."""
        return next((worker for worker in self.workers if pod.address and worker.address == pod.address), None)
