"""Gathers what is observed of a pool: a handful of reads of the pool's own namespace, most of them from the cache."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from roost_operator.api.spec import AgentPool
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Document, Reader
from roost_operator.kubernetes.pod_status import is_node, pod_of
from roost_operator.kubernetes.pool_secrets import PoolSecrets
from roost_operator.plan import names
from roost_operator.plan.difference import belongs
from roost_operator.plan.observed import Observed, Pod, Reference, Store, Worker


async def children(api: Reader, pool: AgentPool) -> dict[Reference, Document]:
    """The pool's children that exist, wanted or not. What only has a child's name is none. Raises ApiError."""
    name, namespace = pool.metadata.name, pool.metadata.namespace
    known = [
        (kinds.SERVICE, name),
        (kinds.SECRET, names.secret(pool)),
        (kinds.ACCOUNT, names.account(pool)),
        (kinds.BUDGET, f"{name}-worker"),
        (kinds.SECRET, names.head_secret(pool)),
        *((kinds.POLICY, f"{name}-{part}") for part in (names.WORKER, names.HEAD)),
        (kinds.MONITOR, f"{name}-worker"),
    ]
    found = await asyncio.gather(*(api.get(kind, namespace, child) for kind, child in known))
    pairs = zip(known, found, strict=True)
    return {Reference(kind.kind, child): one for (kind, child), one in pairs if one and belongs(one, pool)}


async def gather(
    api: Reader,
    pool: AgentPool,
    raw: Document,
    *,
    now: float,
    store: tuple[Store, tuple[Worker, ...]],
    sessions: tuple[int, int, int] | None,
    secrets: PoolSecrets,
    kuberay: bool,
    monitors: bool,
) -> Observed:
    """Everything that a plan needs. Raises ApiError."""
    metadata = raw["metadata"]
    found = await children(api, pool)
    clusters = await api.of_pool(kinds.CLUSTER, pool.metadata.namespace, pool.metadata.name) if kuberay else []
    workers, heads = [await _pods(api, pool, component) for component in (names.WORKER, names.HEAD)]
    deleted = metadata.get("deletionTimestamp")
    return Observed(
        uid=metadata["uid"],
        generation=metadata["generation"],
        now=now,
        deleted_at=datetime.fromisoformat(deleted).timestamp() if deleted else None,
        finalizer=names.FINALIZER in (metadata.get("finalizers") or ()),
        status=raw.get("status") or {},
        children=dict(found.items()),
        cluster=_staying(found.get(Reference("RayService", pool.metadata.name)), clusters),
        clusters=tuple(clusters),
        pods=workers,
        heads=heads,
        workers=store[1],
        store=store[0],
        sessions=sessions,
        kuberay=kuberay,
        monitors=monitors,
        missing_secrets=secrets.missing,
        own_store_url=secrets.own_store_url,
        ray_store_url=secrets.ray_store_url,
    )


async def _pods(api: Reader, pool: AgentPool, component: str) -> tuple[Pod, ...]:
    found = await api.of_pool(kinds.POD, pool.metadata.namespace, pool.metadata.name, component)
    return tuple(pod_of(pod) for pod in found if is_node(pod))


def _staying(service: Document | None, clusters: Sequence[Document]) -> Document | None:
    """The RayCluster that is to stay: the pending one, else the active one."""
    status = (service or {}).get("status") or {}
    by_name = {cluster["metadata"]["name"]: cluster for cluster in clusters}
    named = ((status.get(part) or {}).get("rayClusterName") for part in ("pendingServiceStatus", "activeServiceStatus"))
    return next((by_name[name] for name in named if name in by_name), None)
