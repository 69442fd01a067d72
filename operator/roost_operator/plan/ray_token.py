"""The token that the processes of a pool's Ray cluster, and its dashboard, ask for (`authOptions` of KubeRay). Pure.

It is in the pool's own Secret: one that KubeRay draws belongs to the RayCluster, and when a pool is deleted the garbage
collector may remove it before the pod of KubeRay's cleanup Job, which needs it, has started.
"""

import hashlib
import hmac

from roost_operator.api.spec import AgentPool, Upgrade
from roost_operator.plan.installation import Installation
from roost_operator.plan.observed import Observed

PURPOSE = b"roost.ray-token\0"


def ray_token(pool: AgentPool, installation: Installation, observed: Observed) -> str:
    """The pool's token; empty when KubeRay has no field for it.

    It is derived from the installation's key, so that a Secret that was deleted comes back as it was. The token in the
    Secret goes before, so that another key does not keep new pods out of a running cluster.
    """
    if not observed.ray.token_auth:
        return ""
    derived = hmac.new(installation.pool_key.encode(), PURPOSE + pool.pool.encode(), hashlib.sha256).hexdigest()
    return observed.secrets.ray_token or derived


def required_token(pool: AgentPool, installation: Installation, observed: Observed) -> str:
    """The token that the pool's Ray cluster is to require; empty for none.

    Pods with the token and pods without it cannot talk to each other, so only a whole cluster begins to require it:
    that of an upgrade with `NewCluster`, or of a pool that was suspended.
    """
    service = observed.ray.service
    if service is None or service.suspended or service.token_auth or pool.spec.workers.upgrade is Upgrade.NEW_CLUSTER:
        return ray_token(pool, installation, observed)
    return ""
