"""Where Ray's head keeps its state so that losing the head does not restart the workers: in Redis, under its own keys.
Pure.

Ray names its keys `RAY<namespace>@…`. The namespace is left to KubeRay, which takes the RayCluster's uid: that keeps
the two clusters of an upgrade, which come from one RayService, apart. When a RayCluster is deleted, a Job of KubeRay's
removes its keys.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from roost_operator.api.spec import AgentPool
from roost_operator.plan import names
from roost_operator.plan.installation import Installation

Manifest = dict[str, Any]
DELETION_SECONDS = 60
"""How long the deletion of a RayCluster waits for its keys to be removed; after that they stay in Redis."""
ANNOTATIONS = {"ray.io/gcs-ft-deletion-timeout": str(DELETION_SECONDS)}
_SCHEMES = ("redis", "rediss")
_USER, _PASSWORD = "ray-username", "ray-password"


@dataclass(frozen=True, slots=True)
class HeadState:
    """A Redis server and the credentials of Ray's head."""

    address: str
    username: str = ""
    password: str = field(default="", repr=False)


def head_state(pool: AgentPool, installation: Installation, own_url: str) -> HeadState | None:
    """Where the head keeps its state, or None when it keeps it in memory, so that losing the head restarts the workers.

    A pool with its own store (`spec.store`) keeps it at `own_url`, never in the installation's Redis.
    """
    url = own_url if pool.spec.store.url_secret_ref else installation.ray_store_url
    return parsed(url) if url else None


def parsed(url: str) -> HeadState | None:
    """The parts of a Redis URL; None for one that Ray cannot use, such as that of a Redis Cluster."""
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        return None
    if parts.scheme not in _SCHEMES or not parts.hostname or "cluster=true" in parts.query:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return HeadState(f"{parts.scheme}://{host}:{port}", unquote(parts.username or ""), unquote(parts.password or ""))


def head_secret(pool: AgentPool, state: HeadState) -> Manifest:
    """Secret with the head's credentials. Workers do not get it."""
    known = {_USER: state.username, _PASSWORD: state.password}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": names.head_secret(pool)},
        "type": "Opaque",
        "data": {name: names.base64_of(value) for name, value in known.items() if value},
    }


def fault_tolerance(pool: AgentPool, state: HeadState) -> Manifest:
    """`gcsFaultToleranceOptions` of a RayCluster."""
    options: Manifest = {"redisAddress": state.address}
    if state.username:
        options["redisUsername"] = _from_secret(pool, _USER)
    if state.password:
        options["redisPassword"] = _from_secret(pool, _PASSWORD)
    return options


def _from_secret(pool: AgentPool, key: str) -> Manifest:
    return {"valueFrom": {"secretKeyRef": {"name": names.head_secret(pool), "key": key}}}
