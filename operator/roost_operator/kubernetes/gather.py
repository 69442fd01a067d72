"""Gathers what is observed of a pool: a few reads in the pool's namespace, most of them from the cache, parsed once."""

import asyncio
from datetime import datetime

from roost_operator.api.spec import AgentPool
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import Document, Reader
from roost_operator.kubernetes.pod_status import is_node, parse_pod
from roost_operator.kubernetes.pool_secrets import PoolSecrets, secret_value
from roost_operator.plan import names
from roost_operator.plan.difference import belongs
from roost_operator.plan.observed import AgentPoolObject, Observed, Pod, Ray, Reference, Secrets, StoreState, Worker
from roost_operator.plan.ray_objects import parse_cluster, parse_service, staying_cluster


async def gather(
    api: Reader,
    pool: AgentPool,
    raw: Document,
    *,
    now: float,
    store: tuple[StoreState, tuple[Worker, ...]],
    sessions: tuple[int, int, int] | None,
    secrets: PoolSecrets,
    kuberay: bool,
    token_auth: bool,
    monitors: bool,
    unreadable: str = "",
) -> Observed:
    """Everything that a plan needs. `raw` is the AgentPool as it is stored, `pool` its spec, or a stand-in when it is
    `unreadable`; `token_auth` says whether KubeRay's RayService has a field for Ray's token. Raises ApiError."""
    children = await _children(api, pool)
    own_secret = children.get(Reference("Secret", names.secret(pool)))
    ray_token = secret_value(own_secret, names.TOKEN_KEY) or ""
    return Observed(
        now=now,
        pool=_pool_object(raw, unreadable),
        children=children,
        ray=await _ray(api, pool, children, installed=kuberay, token_auth=token_auth),
        workers=store[1],
        store=store[0],
        sessions=sessions,
        secrets=Secrets(secrets.missing, secrets.own_store_url, secrets.ray_store_url, ray_token),
        pod_monitors=monitors,
    )


async def _children(api: Reader, pool: AgentPool) -> dict[Reference, Document]:
    """The pool's existing children, wanted or not. An object that only has a child's name is left out."""
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
    objects = await asyncio.gather(*(api.get(kind, namespace, child) for kind, child in known))
    pairs = zip(known, objects, strict=True)
    return {Reference(kind.kind, child): live for (kind, child), live in pairs if live and belongs(live, pool)}


async def _ray(
    api: Reader, pool: AgentPool, children: dict[Reference, Document], *, installed: bool, token_auth: bool
) -> Ray:
    namespace, name = pool.metadata.namespace, pool.metadata.name
    live = children.get(Reference("RayService", name))
    service = parse_service(live) if live else None
    documents = await api.of_pool(kinds.CLUSTER, namespace, name) if installed else []
    clusters = tuple(parse_cluster(document) for document in documents)
    return Ray(
        installed=installed,
        token_auth=token_auth,
        service=service,
        cluster=staying_cluster(service, clusters),
        clusters=clusters,
        pods=await _pods(api, pool, names.WORKER),
        heads=await _pods(api, pool, names.HEAD),
    )


async def _pods(api: Reader, pool: AgentPool, component: str) -> tuple[Pod, ...]:
    pods = await api.of_pool(kinds.POD, pool.metadata.namespace, pool.metadata.name, component)
    return tuple(parse_pod(pod) for pod in pods if is_node(pod))


def _pool_object(raw: Document, unreadable: str) -> AgentPoolObject:
    metadata = raw["metadata"]
    deleted = metadata.get("deletionTimestamp")
    return AgentPoolObject(
        uid=metadata["uid"],
        generation=metadata["generation"],
        status=raw.get("status") or {},
        has_finalizer=names.FINALIZER in (metadata.get("finalizers") or ()),
        deleted_at=datetime.fromisoformat(deleted).timestamp() if deleted else None,
        unreadable=unreadable,
    )
