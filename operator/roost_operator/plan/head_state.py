"""Where Ray's head keeps its state, so that its loss does not restart the workers: Redis, under keys of its own. Pure.

Ray names its keys `RAY<namespace>@…`. The namespace is not ours to give: KubeRay takes the RayCluster's uid, by which
the two clusters of an upgrade, made from one RayService, stay apart. When a RayCluster goes, a Job of KubeRay's
removes its keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from roost_operator.api.spec import AgentPool
from roost_operator.plan import names
from roost_operator.plan.installation import Installation

Manifest = dict[str, Any]
DELETION_SECONDS = 60
"""How long a RayCluster that is deleted waits for its keys to be removed; then they stay."""
ANNOTATIONS = {"ray.io/gcs-ft-deletion-timeout": str(DELETION_SECONDS)}
_SCHEMES = ("redis", "rediss")
_USER, _PASSWORD = "ray-username", "ray-password"


@dataclass(frozen=True, slots=True)
class HeadState:
    """A Redis and who asks it."""

    address: str
    username: str = ""
    password: str = field(default="", repr=False)


def head_state(pool: AgentPool, installation: Installation, own_url: str) -> HeadState | None:
    """Where the head keeps its state; None: nowhere, so that its loss restarts the workers. A pool that has a store
    of its own (`spec.store`) keeps it at `own_url`, and never in the installation's."""
    url = own_url if pool.spec.store.url_secret_ref else installation.ray_store_url
    return parsed(url) if url else None


def parsed(url: str) -> HeadState | None:
    """The parts of a Redis URL; None for what Ray cannot use, such as a cluster of several shards."""
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
    """Secret with what the head needs to reach its state. Workers are not told."""
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


def keeps_state(cluster: Mapping[str, Any]) -> bool:
    """Whether a RayCluster needs the head's Secret: its head, and KubeRay's Job that removes its keys in the end."""
    return "gcsFaultToleranceOptions" in (cluster.get("spec") or {})


def _from_secret(pool: AgentPool, key: str) -> Manifest:
    return {"valueFrom": {"secretKeyRef": {"name": names.head_secret(pool), "key": key}}}
