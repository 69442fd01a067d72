"""Upgrades without a second cluster: `InPlace`, and what `None` holds back. Derived from what is there. Pure.

KubeRay changes nothing in a RayCluster whose RayService says `None`, so that the operator does, one worker at a time:

| upgrade, seen | next |
|---|---|
| InPlace, the live RayCluster is not as the RayService says | it is made so; running pods do not change by that |
| InPlace, pods of the old template without a worker | they go at once: they serve nobody |
| InPlace, a worker of an old pod drains | when it is idle or out of time, its pod goes, and KubeRay makes a new one |
| InPlace, all workers take steps, some in old pods | the cheapest of those is told to drain |
| InPlace, a worker is missing or not ready yet | wait |
| InPlace, it cannot be seen who runs: the store is away or has just come back | wait |
| None, the live RayCluster or Serve's arguments are not as the spec says | wait, and say so |

A change of Serve's arguments alone replaces no pod: Serve restarts one replica at a time, which drains by itself. Under
`None` Serve keeps being given the arguments that the live RayCluster was made with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roost_operator.api.spec import AgentPool, Upgrade
from roost_operator.plan import names
from roost_operator.plan.difference import contains
from roost_operator.plan.observed import Manifest, Observed, Pod
from roost_operator.plan.ray_service import arguments_in
from roost_operator.plan.scaling import choose_victims, may_go, told_to_go

_PARTS = ("headGroupSpec", "rayVersion")
_GROUP_PARTS = ("template", "rayStartParams")


@dataclass(frozen=True, slots=True)
class Renewal:
    """What to do about pods that are not made from the present template."""

    rewrite: Mapping[str, Any] | None = None
    """Parts of the RayCluster's spec to replace, by JSON pointer."""
    drain: frozenset[str] = frozenset()
    """Workers that are to be draining."""
    remove: tuple[str, ...] = ()
    """Pods to delete; KubeRay makes new ones in their place."""
    renewing: bool = False
    """Whether there is anything left to renew."""


def renewal(pool: AgentPool, service: Manifest, seen: Observed, drain_seconds: float) -> Renewal:
    """The next step of an upgrade in place to `service`, the desired RayService. For a pool of settled size."""
    if pool.spec.workers.upgrade is not Upgrade.IN_PLACE or seen.cluster is None:
        return Renewal()
    rewrite = _rewrite(service, seen.cluster)
    if rewrite:
        return Renewal(None if seen.store.blind else rewrite, renewing=True)
    pods = seen.cluster_pods
    wanted = _digest(_group(service["spec"]["rayClusterConfig"]))
    old = [pod for pod in pods if pod.template != wanted]
    if not old or seen.store.blind:
        return Renewal(renewing=bool(old))
    victims = _victims([pod for pod in old if not pod.deleting], pods, seen, pool.spec.workers.replicas)
    gone = tuple(pod.name for pod in victims if may_go(seen.worker_of(pod), drain_seconds))
    drain = frozenset(worker.worker_id for pod in victims if (worker := seen.worker_of(pod)))
    return Renewal(None, drain, tuple(name for name in gone if name not in told_to_go(seen)), renewing=True)


def is_held(pool: AgentPool, service: Manifest, seen: Observed) -> bool:
    """Whether a change waits, since `upgrade` is None."""
    return pool.spec.workers.upgrade is Upgrade.NONE and is_another(service, seen)


def is_another(service: Manifest, seen: Observed) -> bool:
    """Whether the live RayCluster was made, or renewed, from another template or for other arguments than those of
    `service`, the desired RayService: KubeRay says so of itself only seconds later."""
    if seen.cluster is None:
        return False
    wanted, live = service["spec"]["rayClusterConfig"], seen.cluster["spec"]
    return any(_annotations(one(wanted)) != _annotations(one(live)) for one in (_group, _head))


def held_arguments(pool: AgentPool, seen: Observed) -> dict[str, Any] | None:
    """Arguments that Serve keeps being given under `None`; None: those of the spec. Arguments that the live RayCluster
    was not made with are somebody else's, and not kept."""
    if pool.spec.workers.upgrade is not Upgrade.NONE or seen.cluster is None or seen.service is None:
        return None
    found = arguments_in(seen.service)
    made_with = _annotations(_head(seen.cluster["spec"])).get(names.ARGUMENTS)
    return found if found is not None and names.digest(found) == made_with else None


def _rewrite(service: Manifest, cluster: Manifest) -> dict[str, Any]:
    wanted, live = service["spec"]["rayClusterConfig"], cluster["spec"]
    parts = {f"/spec/{name}": (wanted[name], live.get(name)) for name in _PARTS}
    group = {name: (_group(wanted)[name], _group(live).get(name)) for name in _GROUP_PARTS}
    parts |= {f"/spec/workerGroupSpecs/0/{name}": pair for name, pair in group.items()}
    return {path: new for path, (new, old) in parts.items() if not contains(old, new)}


def _victims(old: list[Pod], pods: Sequence[Pod], seen: Observed, wanted: int) -> list[Pod]:
    """Pods that are to go now. One worker at most is missing or draining at any time."""
    empty = [pod for pod in old if seen.worker_of(pod) is None]
    if empty:
        return empty
    leaving = [pod for pod in old if _drains(pod, seen)]
    if leaving:
        return leaving
    taking = sum(seen.worker_of(pod) is not None and not _drains(pod, seen) for pod in pods if not pod.deleting)
    return choose_victims(old, seen, 1) if taking >= wanted else []


def _drains(pod: Pod, seen: Observed) -> bool:
    worker = seen.worker_of(pod)
    return worker is not None and (worker.draining or worker.drain_seconds is not None)


def _group(config: Manifest) -> Manifest:
    groups = config.get("workerGroupSpecs") or [{}]
    return dict(groups[0])


def _head(config: Manifest) -> Manifest:
    return config.get("headGroupSpec") or {}


def _digest(group: Manifest) -> str:
    return str(_annotations(group).get(names.TEMPLATE, ""))


def _annotations(group: Manifest) -> Mapping[str, str]:
    """The digests that we put on a template."""
    given = ((group.get("template") or {}).get("metadata") or {}).get("annotations") or {}
    return {name: given[name] for name in (names.TEMPLATE, names.ARGUMENTS) if name in given}
