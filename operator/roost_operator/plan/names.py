"""Names, labels, ports and annotations of what a pool owns."""

import base64
import hashlib
import json
from typing import Any

from roost_operator.api.spec import API_VERSION, GROUP, KIND, AgentPool

FIELD_MANAGER = "roost-operator"
FINALIZER = f"{GROUP}/drain"
APPLIED = f"{GROUP}/applied"
"""Annotation of every child: a digest of what was applied, which shows that a field is no longer wanted."""
TEMPLATE = f"{GROUP}/template"
"""Annotation of pods: a digest of what they were created from, without the arguments of the Serve application."""
ARGUMENTS = f"{GROUP}/arguments"
"""Annotation of pods: a digest of the Serve application's arguments when their cluster was created or renewed."""
POOL_LABEL = f"{GROUP}/pool"
COMPONENT_LABEL = f"{GROUP}/component"
HEAD, WORKER = "head", "worker"
WORKER_GROUP = "workers"
WORKER_PORT, METRICS_PORT = 8471, 9400
RAY_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000}
STORE_KEY, SECRET_KEY = "store-url", "pool-secret"
TOKEN_KEY = "auth_token"
"""Key of Ray's token in the pool's Secret; KubeRay chose the name."""


def labels(pool: AgentPool, component: str = "") -> dict[str, str]:
    """Labels of a child, or of a component's pods."""
    shared = {
        "app.kubernetes.io/name": "roost",
        "app.kubernetes.io/part-of": "roost",
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        POOL_LABEL: pool.metadata.name,
    }
    return {**shared, **({COMPONENT_LABEL: component} if component else {})}


def selector(pool: AgentPool, component: str) -> dict[str, str]:
    """Labels that select the pods of a component of the pool."""
    return {POOL_LABEL: pool.metadata.name, COMPONENT_LABEL: component}


def account(pool: AgentPool) -> str:
    """ServiceAccount of the pool's pods."""
    return f"{pool.metadata.name}-worker"


def secret(pool: AgentPool) -> str:
    """Secret with what the pool's workers need."""
    return f"{pool.metadata.name}-worker"


def head_secret(pool: AgentPool) -> str:
    """Secret with the credentials by which Ray's head reaches its state."""
    return f"{pool.metadata.name}-head"


def owner(pool: AgentPool, uid: str) -> dict[str, Any]:
    """Owner reference by which the garbage collector removes a child with its pool."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": pool.metadata.name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def digest(value: Any) -> str:
    """A short digest of a document."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def base64_of(text: str) -> str:
    """`text` as the data of a Secret."""
    return base64.b64encode(text.encode()).decode()
