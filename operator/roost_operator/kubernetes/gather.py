"""Gathers what is observed of a pool: a handful of reads, all of the pool's own namespace."""

import asyncio
import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from roost_operator.api.spec import AgentPool
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Api, Document
from roost_operator.plan import names
from roost_operator.plan.installation import Installation
from roost_operator.plan.observed import Observed, Pod, Reference, Store, Worker

_CLUSTER_LABEL = "ray.io/cluster"


async def children(api: Api, pool: AgentPool, installation: Installation, monitors: bool) -> dict[Reference, Document]:
    """The pool's children that exist, among those that it is to have. Raises ApiError."""
    name, namespace = pool.metadata.name, pool.metadata.namespace
    wanted = [
        (kinds.SERVICE, name),
        (kinds.SECRET, names.secret(pool)),
        (kinds.ACCOUNT, names.account(pool)),
        (kinds.BUDGET, f"{name}-worker"),
    ]
    if installation.network_policies:
        wanted += [(kinds.POLICY, f"{name}-{part}") for part in (names.WORKER, names.HEAD)]
    if installation.pod_monitors and monitors:
        wanted.append((kinds.MONITOR, f"{name}-worker"))
    found = await asyncio.gather(*(api.get(kind, namespace, child) for kind, child in wanted))
    return {Reference(kind.kind, child): one for (kind, child), one in zip(wanted, found, strict=True) if one}


async def store_url(api: Api, pool: AgentPool, installation: Installation) -> tuple[str, tuple[str, ...]]:
    """URL of the pool's store, and Secrets or keys that the spec names and that are missing. Raises ApiError."""
    missing: list[str] = []
    url = installation.store_url
    store, token = pool.spec.store.url_secret_ref, pool.spec.model.token_secret_ref
    for reference in (store, token):
        if reference is None:
            continue
        value = await _secret_value(api, pool.metadata.namespace, reference.name, reference.key)
        if value is None:
            missing.append(f"Secret {reference.name}, key {reference.key}")
        elif reference is store:
            url = value
    return url, tuple(missing)


async def gather(
    api: Api,
    pool: AgentPool,
    raw: Document,
    installation: Installation,
    *,
    now: float,
    store: tuple[Store, tuple[Worker, ...]],
    sessions: tuple[int, int, int] | None,
    missing: tuple[str, ...],
    kuberay: bool,
    monitors: bool,
) -> Observed:
    """Everything that a plan needs. Raises ApiError."""
    metadata = raw["metadata"]
    found = await children(api, pool, installation, monitors)
    cluster = await _cluster(api, pool, found) if kuberay else None
    pods = await api.list(kinds.POD, pool.metadata.namespace, names.selector(pool, names.WORKER))
    deleted = metadata.get("deletionTimestamp")
    return Observed(
        uid=metadata["uid"],
        generation=metadata["generation"],
        now=now,
        deleted_at=datetime.fromisoformat(deleted).timestamp() if deleted else None,
        finalizer=names.FINALIZER in (metadata.get("finalizers") or ()),
        status=raw.get("status") or {},
        children=dict(found.items()),
        cluster=cluster,
        pods=tuple(pod_of(pod) for pod in pods),
        workers=store[1],
        store=store[0],
        sessions=sessions,
        kuberay=kuberay,
        monitors=monitors,
        missing_secrets=missing,
    )


def pod_of(pod: Mapping[str, Any]) -> Pod:
    """What a plan needs of a pod."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    trouble, message = _trouble(status)
    return Pod(
        name=metadata["name"],
        cluster=(metadata.get("labels") or {}).get(_CLUSTER_LABEL, ""),
        address=status.get("podIP", ""),
        running=status.get("phase") == "Running",
        deleting="deletionTimestamp" in metadata,
        trouble=trouble,
        message=message,
    )


def _trouble(status: Mapping[str, Any]) -> tuple[str, str]:
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] not in ("ContainerCreating", "PodInitializing"):
            return str(waiting["reason"]), str(waiting.get("message") or "")
    for condition in status.get("conditions") or ():
        if condition.get("reason") == "Unschedulable":
            return "Unschedulable", str(condition.get("message") or "")
    return "", ""


async def _cluster(api: Api, pool: AgentPool, found: Mapping[Reference, Document]) -> Document | None:
    """The RayCluster that is to stay: the pending one, else the active one."""
    service = found.get(Reference("RayService", pool.metadata.name))
    status = (service or {}).get("status") or {}
    for part in ("pendingServiceStatus", "activeServiceStatus"):
        name = (status.get(part) or {}).get("rayClusterName")
        if name:
            cluster = await api.get(kinds.CLUSTER, pool.metadata.namespace, name)
            if cluster is not None:
                return cluster
    return None


async def _secret_value(api: Api, namespace: str, name: str, key: str) -> str | None:
    secret = await api.get(kinds.SECRET, namespace, name)
    value = ((secret or {}).get("data") or {}).get(key)
    return None if value is None else base64.b64decode(value).decode().strip()
