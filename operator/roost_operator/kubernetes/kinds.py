"""The kinds that the operator reads and writes, with where the API server keeps them and what it may do with them."""

from dataclasses import dataclass

from roost_operator.api.crd import PLURAL
from roost_operator.api.spec import API_VERSION, KIND

READ = ("list", "watch")
APPLY = ("create", "patch")
"""Server-side apply of an object that may not exist needs both."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object."""

    api_version: str
    kind: str
    plural: str
    verbs: tuple[str, ...]
    """What the operator does with it: the rules of its ClusterRole."""

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Path of an object, or of all in a namespace, or everywhere."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        parts = [root, *(("namespaces", namespace) if namespace else ()), self.plural, name, subresource]
        return "/".join(part for part in parts if part)


POOL = Kind(API_VERSION, KIND, PLURAL, ("get", *READ, "patch"))
SERVICE = Kind("ray.io/v1", "RayService", "rayservices", (*READ, *APPLY, "delete"))
CLUSTER = Kind("ray.io/v1", "RayCluster", "rayclusters", (*READ, "patch"))
POD = Kind("v1", "Pod", "pods", READ)
SECRET = Kind("v1", "Secret", "secrets", ("get", *APPLY))
"""Never listed: that would be the right to read them all at once."""
ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts", (*READ, *APPLY))
POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", (*READ, *APPLY))
BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", (*READ, *APPLY))
MONITOR = Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors", (*READ, *APPLY))
EVENT = Kind("v1", "Event", "events", ("create",))
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases", ("get", "create", "update"))
CHILDREN = {kind.kind: kind for kind in (SERVICE, SECRET, ACCOUNT, POLICY, BUDGET, MONITOR)}
ALL = (POOL, *CHILDREN.values(), CLUSTER, POD, EVENT, LEASE)
