"""The operator's ClusterRole, made from the kinds and verbs that it uses. Pure."""

from typing import Any

from roost_operator.api.crd import PLURAL
from roost_operator.api.spec import GROUP
from roost_operator.kubernetes.kinds import ALL, POOL

NAME = "roost-operator"


def cluster_role() -> dict[str, Any]:
    """What the operator may do, and no more."""
    rules = [{"apiGroups": [kind.group], "resources": [kind.plural], "verbs": list(kind.verbs)} for kind in ALL]
    status = {"apiGroups": [GROUP], "resources": [f"{PLURAL}/status"], "verbs": ["patch"]}
    # Owner references that block a deletion need this right, where the admission plugin asks for it.
    finalizers = {"apiGroups": [GROUP], "resources": [f"{POOL.plural}/finalizers"], "verbs": ["update"]}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": NAME},
        "rules": [*rules, status, finalizers],
    }
