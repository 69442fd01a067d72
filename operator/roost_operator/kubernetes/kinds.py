"""The kinds that the operator reads and writes, with where the API server keeps them and what it may do with them."""

from dataclasses import dataclass

from roost_operator.api.crd import PLURAL
from roost_operator.api.spec import API_VERSION, KIND

READ = ("list", "watch")
OWN = ("get", "create", "patch", "delete")
"""Of children: read first, since they may be somebody else's; server-side apply creates and patches. Who makes a pool
the owner of what is there must be allowed to delete it, where an admission plugin asks."""


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
SERVICE = Kind("ray.io/v1", "RayService", "rayservices", (*READ, *OWN))
CLUSTER = Kind("ray.io/v1", "RayCluster", "rayclusters", (*READ, "patch"))
POD = Kind("v1", "Pod", "pods", READ)
SECRET = Kind("v1", "Secret", "secrets", OWN)
"""Never listed: that would be the right to read them all at once."""
ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts", (*READ, *OWN))
POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", (*READ, *OWN))
BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", (*READ, *OWN))
MONITOR = Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors", (*READ, *OWN))
EVENT = Kind("v1", "Event", "events", ("create",))
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases", ("get", "create", "update"))
CHILDREN = {kind.kind: kind for kind in (SERVICE, SECRET, ACCOUNT, POLICY, BUDGET, MONITOR)}
ALL = (POOL, *CHILDREN.values(), CLUSTER, POD, EVENT, LEASE)
