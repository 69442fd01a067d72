"""The kinds that the operator reads and writes, with their paths at the API server and the rights that they need."""

from dataclasses import dataclass

from roost_operator.api.crd import PLURAL
from roost_operator.api.spec import API_VERSION, KIND

READ = ("list", "watch")
OWN = ("get", "create", "patch", "delete")
"""Of children. They are read before they are applied, since they may be another owner's; an apply creates and patches.
`delete` is also what an admission plugin asks for where a pool becomes the owner of an object that exists."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object."""

    api_version: str
    kind: str
    plural: str
    verbs: tuple[str, ...]
    """What the operator does with its objects: the rules of its ClusterRole."""

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the path of an object, of all objects of a namespace, or of all."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        parts = [root, *(("namespaces", namespace) if namespace else ()), self.plural, name, subresource]
        return "/".join(part for part in parts if part)


POOL = Kind(API_VERSION, KIND, PLURAL, ("get", *READ, "patch"))
SERVICE = Kind("ray.io/v1", "RayService", "rayservices", (*READ, *OWN))
CLUSTER = Kind("ray.io/v1", "RayCluster", "rayclusters", (*READ, "patch"))
POD = Kind("v1", "Pod", "pods", READ)
SECRET = Kind("v1", "Secret", "secrets", OWN)
"""Never listed: that would need the right to read all of them."""
ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts", (*READ, *OWN))
POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", (*READ, *OWN))
BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", (*READ, *OWN))
MONITOR = Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors", (*READ, *OWN))
EVENT = Kind("v1", "Event", "events", ("create",))
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases", ("get", "create", "update"))
CHILDREN = {kind.kind: kind for kind in (SERVICE, SECRET, ACCOUNT, POLICY, BUDGET, MONITOR)}
WATCHED = (POOL, SERVICE, CLUSTER, ACCOUNT, POLICY, BUDGET, POD, MONITOR)
CUSTOM = (POOL, SERVICE, CLUSTER, MONITOR)
"""Watched kinds that a cluster may lack, now or for ever."""
ALL = (POOL, *CHILDREN.values(), CLUSTER, POD, EVENT, LEASE)
