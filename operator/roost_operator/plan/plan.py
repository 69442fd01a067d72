"""`plan(pool, installation, observed) → Plan`: what is to be there, what to do next, what to report. Pure, no memory.

| the pool | stage |
|---|---|
| is being deleted, the store is away and time is left | WAIT: no worker can be asked to drain |
| is being deleted, workers run steps, or may do so unseen | DRAIN: gateways refuse new steps, workers finish theirs |
| is being deleted, all idle or out of time | REMOVE: the RayService goes, with its pods |
| is being deleted, nothing runs | FORGET: its document goes, with `Purge` its sessions too; the finalizer is removed |
| cannot be read | WAIT |
| has no finalizer | CLAIM: the finalizer is set before anything is created |
| is to be suspended, workers still run steps | DRAIN |
| is suspended | SUSPEND: the RayCluster is suspended; if the pool cannot be run, nothing else in it changes |
| cannot be run (template, KubeRay, secrets) | WAIT: what drains goes on draining |
| anything else | RUN: grow, shrink, upgrade or stay |
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from roost.contract.pool_document import PoolDocument
from roost_operator.api.pool_document import pool_document
from roost_operator.api.spec import AgentPool, OnModelChange, OnPoolDeletion
from roost_operator.plan import children, names
from roost_operator.plan.difference import reference, stamped, to_apply
from roost_operator.plan.head_state import head_secret, head_state
from roost_operator.plan.installation import Installation
from roost_operator.plan.observed import Observed, Reference, Worker, WorkerGroup
from roost_operator.plan.pods import TemplateError
from roost_operator.plan.ray_objects import desired_cluster
from roost_operator.plan.ray_service import Size, ray_service, suspended
from roost_operator.plan.ray_token import ray_token, required_token
from roost_operator.plan.renewal import Renewal, change_waits, differs, kept_arguments, renewal
from roost_operator.plan.revision import active_revision, replaced_workers
from roost_operator.plan.scaling import Scale, all_may_go, draining, scale
from roost_operator.plan.status import Event, facts_of, pool_status, transitions

GIVE_UP_SECONDS = 30
"""How long after its drain time a deletion waits for a store that does not answer."""


class Stage(StrEnum):
    """What a plan is about."""

    CLAIM = "Claim"
    WAIT = "Wait"
    RUN = "Run"
    DRAIN = "Drain"
    SUSPEND = "Suspend"
    REMOVE = "Remove"
    FORGET = "Forget"


@dataclass(frozen=True, slots=True)
class Resize:
    """What to change in the live RayCluster, since KubeRay does not take it over from the RayService."""

    cluster: str
    group: WorkerGroup
    """The group as it is now."""
    pods: int
    remove: tuple[str, ...] = ()
    rewrite: Mapping[str, Any] | None = None
    """Other parts of the RayCluster's spec to replace, by JSON pointer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order: finalizer, drains and document, children, resize, removals, status."""

    stage: Stage
    status: Mapping[str, Any]
    apply: tuple[dict[str, Any], ...] = ()
    """Children to apply: those that are missing or differ."""
    resize: Resize | None = None
    delete: tuple[Reference, ...] = ()
    document: PoolDocument | None = None
    """The pool document to publish; None when it is current or the store is away."""
    drain: frozenset[str] = frozenset()
    """Ids of the workers that are to drain; all others are not to."""
    withdraw: bool = False
    """Whether to remove the pool's document."""
    purge: bool = False
    """Whether to remove everything else of the pool from the store."""
    events: tuple[Event, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether the cluster's objects stay as they are."""
        return not (self.apply or self.resize or self.delete)


def plan(pool: AgentPool, installation: Installation, observed: Observed) -> Plan:
    """The next thing to do about a pool."""
    if observed.pool.deleted_at is not None:
        return _deletion(pool, observed)
    drain = draining(observed.workers)
    if observed.pool.unreadable:
        return _reported(pool, observed, Plan(Stage.WAIT, {}, drain=drain))
    template_problem = _template_problem(pool, installation)
    storeless = pool.spec.store.url_secret_ref is not None and not observed.secrets.own_store_url
    blocked = bool(template_problem or not observed.ray.installed or observed.secrets.missing or storeless)
    if not observed.pool.has_finalizer:
        return _reported(pool, observed, Plan(Stage.CLAIM, {}, drain=drain), template_problem)
    if pool.spec.suspend and (observed.ray.service or not blocked):
        suspension = _suspension(pool, installation, observed, blocked=blocked)
        return _reported(pool, observed, suspension, template_problem)
    if blocked:
        waiting = Plan(Stage.WAIT, {}, document=_document(pool, observed), drain=drain)
        return _reported(pool, observed, waiting, template_problem)
    return _running(pool, installation, observed)


def refused(pool: AgentPool, observed: Observed) -> Plan:
    """The plan after the API server refused a child, as `observed.refused` says: only to report it."""
    return _reported(pool, observed, Plan(Stage.WAIT, {}))


def _running(pool: AgentPool, installation: Installation, observed: Observed) -> Plan:
    wanted, drain_seconds = pool.spec.workers.replicas, float(pool.spec.workers.drain_timeout_seconds)
    group = observed.ray.group(names.WORKER_GROUP)
    pods_now = group.replicas if group else 0
    # As long as running workers may be missing from the leases no pod is taken away.
    reachable = max(wanted, pods_now) if observed.store.blind else wanted
    replicas = observed.ray.service.replicas if observed.ray.service else None
    scaled = scale(reachable, group, replicas, observed, drain_seconds)
    service = _service(pool, installation, observed, scaled.size)
    desired = desired_cluster(service)
    shrinking = wanted < pods_now
    busy = shrinking or scaled.drain or scaled.remove
    renewed = Renewal() if busy else renewal(pool, desired, group, observed)
    refuses = pool.spec.sessions.on_model_change is OnModelChange.REFUSE
    drain = scaled.drain | renewed.drain | replaced_workers(observed, wanted, keeps_sessions=refuses)
    apply, delete = _children(pool, installation, observed, service)
    running = Plan(
        Stage.RUN,
        {},
        apply=apply,
        delete=delete,
        resize=_resize(observed, group, scaled, renewed),
        document=_document(pool, observed),
        drain=draining(observed.workers) if observed.store.blind else drain,
    )
    waits = change_waits(pool, desired, observed)
    upgrading = renewed.renewing or (differs(desired, observed.ray.cluster) and not waits)
    scaling = shrinking or not scaled.settled
    return _reported(pool, observed, running, upgrading=upgrading, scaling=scaling, change_waits=waits)


def _suspension(pool: AgentPool, installation: Installation, observed: Observed, *, blocked: bool) -> Plan:
    """Workers drain while the pool keeps its size; then the whole cluster is suspended. With `blocked`, which means
    that what the spec asks for cannot be created, the RayService stays as it is apart from that."""
    service = observed.ray.service
    drained = not observed.store.blind and all_may_go(observed.workers, float(pool.spec.workers.drain_timeout_seconds))
    stop = service is None or service.suspended or drained
    delete: tuple[Reference, ...] = ()
    if service is not None and blocked:
        live = observed.children[Reference("RayService", pool.metadata.name)]
        apply = _stamped(pool, observed, [suspended(live)]) if stop else ()
    else:
        group = observed.ray.group(names.WORKER_GROUP)
        pods = (group.replicas if group else 0) or pool.spec.workers.replicas
        size = Size(pods, (service.replicas if service else None) or pods)
        apply, delete = _children(pool, installation, observed, _service(pool, installation, observed, size, stop))
    stage = Stage.SUSPEND if stop else Stage.DRAIN
    document = _document(pool, observed)
    return Plan(stage, {}, apply=apply, delete=delete, document=document, drain=_ids(observed.workers))


def _deletion(pool: AgentPool, observed: Observed) -> Plan:
    drain_seconds = float(pool.spec.workers.drain_timeout_seconds)
    waited = observed.now - (observed.pool.deleted_at or observed.now)
    out_of_time = waited > drain_seconds + GIVE_UP_SECONDS
    everyone = _ids(observed.workers)
    services = tuple(child for child in observed.children if child.kind == "RayService")
    if observed.store.problem and not out_of_time:
        return _reported(pool, observed, Plan(Stage.WAIT, {}))
    unseen = observed.store.blind and (services or observed.ray.pods)
    if not out_of_time and (unseen or not all_may_go(observed.workers, drain_seconds)):
        return _reported(pool, observed, Plan(Stage.DRAIN, {}, document=_document(pool, observed), drain=everyone))
    if services or (observed.ray.pods and not out_of_time):
        delete = _not_deleted(observed, services)
        return _reported(pool, observed, Plan(Stage.REMOVE, {}, delete=delete, drain=everyone))
    if observed.store.problem:
        text = f"the store is away ({observed.store.problem}); its records stay there"
        return Plan(Stage.FORGET, observed.pool.status, events=(Event("Warning", "StoreLeftAlone", text),))
    purge = pool.spec.sessions.deletion is OnPoolDeletion.PURGE
    return Plan(Stage.FORGET, observed.pool.status, withdraw=True, purge=purge)


def _reported(
    pool: AgentPool,
    observed: Observed,
    draft: Plan,
    template_problem: str = "",
    *,
    upgrading: bool = False,
    **changes: Any,
) -> Plan:
    """`draft` with its status and events; `changes` are fields of `Facts`."""
    stopped = draft.stage is Stage.SUSPEND and not observed.ray.pods
    wanted = 0 if pool.spec.suspend or observed.pool.deleted_at else pool.spec.workers.replicas
    facts = facts_of(pool, observed, wanted, template_problem, upgrading=upgrading, stopped=stopped, **changes)
    before = observed.pool.status
    if observed.store.problem:
        revision = str(before.get("activeRevision", ""))
    else:
        revision = active_revision(observed, pool.spec.workers.replicas)
    status = pool_status(pool, observed, facts, revision)
    # Workers whose pods somebody deletes were asked to drain by their pods, which is not taken back.
    leaving = observed.workers_in([pod for pod in observed.ray.pods if pod.deleting])
    events = (*draft.events, *transitions(before, status))
    return replace(draft, status=status, drain=draft.drain | _ids(leaving), events=events)


def _ids(workers: Iterable[Worker]) -> frozenset[str]:
    return frozenset(worker.worker_id for worker in workers)


def _service(
    pool: AgentPool, installation: Installation, observed: Observed, size: Size, suspend: bool = False
) -> dict[str, Any]:
    """The desired RayService. A change that `upgrade: None` holds back is carried out when KubeRay rewrites the live
    RayCluster, as it does when `suspend` changes."""
    secrets = observed.secrets
    return ray_service(
        pool,
        installation,
        size,
        suspend=suspend,
        state=head_state(pool, installation, secrets.ray_store_url),
        arguments=kept_arguments(pool, observed),
        own_store_url=secrets.own_store_url,
        ray_token=required_token(pool, installation, observed),
    )


def _children(
    pool: AgentPool, installation: Installation, observed: Observed, service: dict[str, Any]
) -> tuple[tuple[dict[str, Any], ...], tuple[Reference, ...]]:
    """Children to apply, in the order in which they need each other; and those to delete."""
    state = head_state(pool, installation, observed.secrets.ray_store_url)
    monitored = installation.pod_monitors and observed.pod_monitors
    desired = [
        children.service_account(pool),
        children.worker_secret(pool, installation, ray_token(pool, installation, observed)),
        *([head_secret(pool, state)] if state else ()),
        *(children.network_policies(pool, installation) if installation.network_policies else ()),
        children.disruption_budget(pool),
        *([children.pod_monitor(pool, installation)] if monitored else ()),
        service,
    ]
    kept = {reference(manifest) for manifest in desired}
    if any(cluster.keeps_state for cluster in observed.ray.clusters):  # its head needs it, and KubeRay's cleanup Job
        kept.add(Reference("Secret", names.head_secret(pool)))
    unwanted = (child for child in observed.children if child not in kept)
    return _stamped(pool, observed, desired), _not_deleted(observed, unwanted)


def _not_deleted(observed: Observed, children: Iterable[Reference]) -> tuple[Reference, ...]:
    """The children without a deletion timestamp."""
    return tuple(child for child in children if "deletionTimestamp" not in observed.children[child]["metadata"])


def _stamped(pool: AgentPool, observed: Observed, manifests: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    owner = names.owner(pool, observed.pool.uid)
    desired = [stamped(manifest, pool.metadata.namespace, names.labels(pool), owner) for manifest in manifests]
    return tuple(to_apply(desired, observed.children))


def _resize(observed: Observed, group: WorkerGroup | None, scaled: Scale, renewed: Renewal) -> Resize | None:
    cluster, remove = observed.ray.cluster, scaled.remove or renewed.remove
    if cluster is None or group is None:
        return None
    if group.replicas == scaled.size.pods and not remove and not renewed.rewrite:
        return None
    return Resize(cluster.name, group, scaled.size.pods, remove, renewed.rewrite)


def _document(pool: AgentPool, observed: Observed) -> PoolDocument | None:
    """The document to publish, or None when the published one is current. A pool that is being deleted takes no
    steps."""
    published = observed.store.document
    if observed.store.problem:
        return None
    if not observed.pool.unreadable:
        document = pool_document(pool, active_revision(observed, pool.spec.workers.replicas))
    elif published is not None:
        document = published
    else:
        return None
    if observed.pool.deleted_at is not None:
        document = replace(document, suspend=True)
    return None if document == published and observed.store.named else document


def _template_problem(pool: AgentPool, installation: Installation) -> str:
    try:
        ray_service(pool, installation, Size(1, 1), suspend=False)
    except TemplateError as error:
        return str(error)
    return ""
