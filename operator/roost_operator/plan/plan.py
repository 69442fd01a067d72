"""`plan(pool, observed) → Plan`: what is to be there, what to do next and what to say. Pure and without memory.

| the pool | step |
|---|---|
| is being deleted, the store is away and time is left | WAIT: nobody can be told to drain |
| is being deleted, workers run steps, or may unseen | DRAIN: gateways refuse new steps, workers finish theirs |
| is being deleted, all idle or out of time | REMOVE: the RayService goes, with its pods |
| is being deleted, nothing runs | FORGET: the document goes, sessions too if so told; the finalizer is released |
| cannot be read | WAIT |
| has no finalizer | CLAIM: the finalizer is set before anything is made |
| suspends, workers still run steps | DRAIN |
| suspended | SUSPEND: the RayCluster is suspended; one that cannot be run otherwise is left as it is for the rest |
| cannot be run (template, KubeRay, secrets) | WAIT: what drains goes on draining |
| anything else | RUN: grow, shrink, upgrade or stay |
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from roost.contract.pool_document import PoolDocument
from roost_operator.api.pool_document import pool_document
from roost_operator.api.spec import AgentPool, OnModelChange, OnPoolDeletion
from roost_operator.plan import children, names
from roost_operator.plan.difference import reference, stamped, to_apply
from roost_operator.plan.head_state import head_secret, head_state, keeps_state
from roost_operator.plan.installation import Installation
from roost_operator.plan.observed import Observed, Reference
from roost_operator.plan.pods import TemplateError
from roost_operator.plan.ray_service import Size, ray_service, replicas_in, suspended
from roost_operator.plan.renewal import Renewal, held_arguments, is_another, is_held, renewal
from roost_operator.plan.revision import active_revision, replaced_workers
from roost_operator.plan.scaling import Scale, all_may_go, scale
from roost_operator.plan.status import Event, facts, pool_status, transitions

GIVE_UP_SECONDS = 30
"""How long after its drain time a deletion waits for a store that does not answer."""


class Step(StrEnum):
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
    """What to change in the live RayCluster, as KubeRay does not take it from the RayService."""

    cluster: str
    pods: int
    remove: tuple[str, ...] = ()
    rewrite: Mapping[str, Any] | None = None
    """Other parts of its spec to replace, by JSON pointer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order: finalizer, drains and document, children, resize, removals, status."""

    step: Step
    status: Mapping[str, Any]
    apply: tuple[dict[str, Any], ...] = ()
    """Children to apply: those that are not as they should be."""
    resize: Resize | None = None
    delete: tuple[Reference, ...] = ()
    document: PoolDocument | None = None
    """The pool document to publish; None: it is current, or the store is away."""
    drain: frozenset[str] = frozenset()
    """Workers that are to be draining; all others are not."""
    withdraw: bool = False
    """Whether the pool's document goes."""
    purge: bool = False
    """Whether everything else of the pool in the store goes."""
    events: tuple[Event, ...] = field(default=())

    @property
    def finalizer(self) -> bool:
        """Whether the pool keeps ours."""
        return self.step is not Step.FORGET

    @property
    def idle(self) -> bool:
        """Whether nothing is to be done to the cluster's objects."""
        return not (self.apply or self.resize or self.delete)


def plan(pool: AgentPool, installation: Installation, seen: Observed) -> Plan:
    """The next thing to do about a pool."""
    if seen.deleted_at is not None:
        return _deletion(pool, seen)
    if seen.unreadable:
        return _told(pool, seen, Plan(Step.WAIT, {}, drain=_told_to_drain(seen)), "")
    problem = _template_problem(pool, installation)
    storeless = pool.spec.store.url_secret_ref is not None and not seen.own_store_url
    blocked = bool(problem or not seen.kuberay or seen.missing_secrets or storeless)
    if seen.finalizer and pool.spec.suspend and (seen.service or not blocked):
        return _suspension(pool, installation, seen, problem, blocked=blocked)
    if not seen.finalizer or blocked:
        step = Step.WAIT if seen.finalizer else Step.CLAIM
        document = _document(pool, seen) if seen.finalizer else None
        return _told(pool, seen, Plan(step, {}, document=document, drain=_told_to_drain(seen)), problem)
    return _running(pool, installation, seen)


def _running(pool: AgentPool, installation: Installation, seen: Observed) -> Plan:
    wanted, drain_seconds = pool.spec.workers.replicas, float(pool.spec.workers.drain_timeout_seconds)
    live = seen.service
    replicas = replicas_in(dict(live)) if live else None
    scaled = scale(_size_to_reach(wanted, seen), _cluster_size(seen), replicas, seen, drain_seconds)
    service = _service(pool, installation, seen, scaled.size)
    shrinking = wanted < (_cluster_size(seen) or 0)
    busy = shrinking or scaled.drain or scaled.remove
    renewed = Renewal() if busy else renewal(pool, service, seen, drain_seconds)
    drain = scaled.drain | renewed.drain | replaced_workers(seen, wanted, keeps_sessions=_refuses(pool))
    apply, delete = _children(pool, installation, seen, service)
    made = Plan(
        Step.RUN,
        {},
        apply=apply,
        delete=delete,
        resize=_resize(seen, scaled, renewed),
        document=_document(pool, seen),
        drain=_told_to_drain(seen) if seen.store.blind else drain,
    )
    held = is_held(pool, service, seen)
    renewing = renewed.renewing or (is_another(service, seen) and not held)
    return _told(pool, seen, made, "", scaling=shrinking or not scaled.settled, renewing=renewing, held=held)


def _refuses(pool: AgentPool) -> bool:
    return pool.spec.sessions.on_model_change is OnModelChange.REFUSE


def _size_to_reach(wanted: int, seen: Observed) -> int:
    """While it cannot be seen who runs no pod is taken away."""
    return max(wanted, _cluster_size(seen) or 0) if seen.store.blind else wanted


def _told_to_drain(seen: Observed) -> frozenset[str]:
    """Those who drain go on, and nobody else is told to."""
    return frozenset(worker.worker_id for worker in seen.workers if worker.drain_seconds is not None)


def _suspension(pool: AgentPool, installation: Installation, seen: Observed, template: str, *, blocked: bool) -> Plan:
    """Workers drain at their present size; then the whole cluster is suspended. `blocked`: as it is there, since what
    the spec asks for cannot be made."""
    everyone = frozenset(worker.worker_id for worker in seen.workers)
    drained = not seen.store.blind and all_may_go(seen.workers, float(pool.spec.workers.drain_timeout_seconds))
    live = seen.service
    stop = live is None or _already_suspended(seen) or drained
    delete: tuple[Reference, ...] = ()
    if live is not None and blocked:
        apply = _stamped(pool, seen, [suspended(live)]) if stop else ()
    else:
        pods = _cluster_size(seen) or pool.spec.workers.replicas
        size = Size(pods, (replicas_in(dict(live)) if live else None) or pods)
        apply, delete = _children(pool, installation, seen, _service(pool, installation, seen, size, stop))
    step = Step.SUSPEND if stop else Step.DRAIN
    made = Plan(step, {}, apply=apply, delete=delete, document=_document(pool, seen), drain=everyone)
    return _told(pool, seen, made, template)


def _deletion(pool: AgentPool, seen: Observed) -> Plan:
    drain_seconds = float(pool.spec.workers.drain_timeout_seconds)
    waited = seen.now - (seen.deleted_at or seen.now)
    out_of_time = waited > drain_seconds + GIVE_UP_SECONDS
    everyone = frozenset(worker.worker_id for worker in seen.workers)
    services = tuple(one for one in seen.children if one.kind == "RayService")
    if seen.store.problem and not out_of_time:
        return _told(pool, seen, Plan(Step.WAIT, {}), "")
    blind = seen.store.blind and (services or seen.pods)
    if not out_of_time and (blind or not all_may_go(seen.workers, drain_seconds)):
        return _told(pool, seen, Plan(Step.DRAIN, {}, document=_document(pool, seen), drain=everyone), "")
    if services or (seen.pods and not out_of_time):
        return _told(pool, seen, Plan(Step.REMOVE, {}, delete=_staying(seen, services), drain=everyone), "")
    purge = pool.spec.sessions.deletion is OnPoolDeletion.PURGE
    made = Plan(Step.FORGET, seen.status, withdraw=True, purge=purge)
    if seen.store.problem:
        lost = Event("Warning", "StoreLeftAlone", f"the store is away ({seen.store.problem}); its records stay there")
        return Plan(Step.FORGET, seen.status, events=(lost,))
    return made


def _staying(seen: Observed, children: Iterable[Reference]) -> tuple[Reference, ...]:
    """Those that nobody has deleted yet."""
    return tuple(one for one in children if "deletionTimestamp" not in seen.children[one]["metadata"])


def refused(pool: AgentPool, seen: Observed) -> Plan:
    """The plan when the API server refused a child, as `seen.refused` tells: nothing but to say so."""
    return _told(pool, seen, Plan(Step.WAIT, {}), "")


def _told(
    pool: AgentPool,
    seen: Observed,
    made: Plan,
    template: str,
    *,
    scaling: bool = False,
    renewing: bool = False,
    held: bool = False,
) -> Plan:
    """`made` with its status and events."""
    stopped = made.step is Step.SUSPEND and not seen.pods
    wanted = 0 if pool.spec.suspend or seen.deleted_at else pool.spec.workers.replicas
    found = facts(pool, seen, wanted, template, stopped=stopped, scaling=scaling, renewing=renewing, held=held)
    known = active_revision(seen, pool.spec.workers.replicas)
    revision = str(seen.status.get("activeRevision", "")) if seen.store.problem else known
    status = pool_status(pool, seen, found, revision)
    events = transitions(seen.status, status)
    return replace(made, status=status, drain=made.drain | _leaving(seen), events=(*made.events, *events))


def _leaving(seen: Observed) -> frozenset[str]:
    """Workers whose pods somebody deletes: their pods told them to drain, and it is not taken back."""
    found = (seen.worker_of(pod) for pod in seen.pods if pod.deleting)
    return frozenset(worker.worker_id for worker in found if worker)


def _service(
    pool: AgentPool, installation: Installation, seen: Observed, size: Size, suspend: bool = False
) -> dict[str, Any]:
    """The RayService. What `upgrade: None` holds back comes when KubeRay changes the live RayCluster, as it does with
    `suspend`."""
    state = head_state(pool, installation, seen.ray_store_url)
    arguments = held_arguments(pool, seen)
    return ray_service(
        pool,
        installation,
        size,
        suspend=suspend,
        state=state,
        arguments=arguments,
        own_store_url=seen.own_store_url,
    )


def _children(
    pool: AgentPool, installation: Installation, seen: Observed, service: dict[str, Any]
) -> tuple[tuple[dict[str, Any], ...], tuple[Reference, ...]]:
    """Children that must be applied, what others need first; and those that are there and no longer wanted."""
    state = head_state(pool, installation, seen.ray_store_url)
    wanted = [
        children.service_account(pool),
        children.worker_secret(pool, installation),
        *([head_secret(pool, state)] if state else ()),
        *(children.network_policies(pool, installation) if installation.network_policies else ()),
        children.disruption_budget(pool),
        *([children.pod_monitor(pool, installation)] if installation.pod_monitors and seen.monitors else ()),
        service,
    ]
    kept = {reference(manifest) for manifest in wanted}
    if any(keeps_state(cluster) for cluster in seen.clusters):
        kept.add(Reference("Secret", names.head_secret(pool)))
    return _stamped(pool, seen, wanted), _staying(seen, (one for one in seen.children if one not in kept))


def _stamped(pool: AgentPool, seen: Observed, wanted: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    owner = names.owner(pool, seen.uid)
    named = [stamped(manifest, pool.metadata.namespace, names.labels(pool), owner) for manifest in wanted]
    return tuple(to_apply(named, seen.children))


def _resize(seen: Observed, scaled: Scale, renewed: Renewal) -> Resize | None:
    now, remove = _cluster_size(seen), scaled.remove or renewed.remove
    if seen.cluster is None or now is None:
        return None
    if now == scaled.size.pods and not remove and not renewed.rewrite:
        return None
    return Resize(str(seen.cluster["metadata"]["name"]), scaled.size.pods, remove, renewed.rewrite)


def _cluster_size(seen: Observed) -> int | None:
    if seen.cluster is None:
        return None
    groups = (seen.cluster.get("spec") or {}).get("workerGroupSpecs") or [{}]
    size: int | None = groups[0].get("replicas")
    return size


def _already_suspended(seen: Observed) -> bool:
    config = ((seen.service or {}).get("spec") or {}).get("rayClusterConfig") or {}
    return bool(config.get("suspend"))


def _document(pool: AgentPool, seen: Observed) -> PoolDocument | None:
    """The document, when the published one is another. A pool that is being deleted takes no steps."""
    published = seen.store.document
    if seen.store.problem:
        return None
    if not seen.unreadable:
        document = pool_document(pool, active_revision(seen, pool.spec.workers.replicas))
    elif published is not None:
        document = published
    else:
        return None
    if seen.deleted_at is not None:
        document = replace(document, suspend=True)
    return None if document == published and seen.store.named else document


def _template_problem(pool: AgentPool, installation: Installation) -> str:
    try:
        ray_service(pool, installation, Size(1, 1), suspend=False)
    except TemplateError as error:
        return str(error)
    return ""
