"""Upgrades without a second cluster: `InPlace`, and what `None` keeps waiting. Derived from what is there. Pure.

KubeRay changes nothing in a RayCluster whose RayService has the strategy `None`, so the operator does, one worker at a
time:

| upgrade, observed | next |
|---|---|
| InPlace, the live RayCluster differs from the RayService | rewrite it; running pods do not change by that |
| InPlace, pods of the old template without a worker | delete them at once: they serve nobody |
| InPlace, a worker of an old pod drains | when it is idle or out of time, its pod goes, and KubeRay creates a new one |
| InPlace, all workers take steps, some in old pods | tell the cheapest of those to drain |
| InPlace, a worker is missing or not ready yet | wait |
| InPlace, workers may run unseen: the store is away or has just come back | wait |
| None, the live RayCluster or Serve's arguments differ from the spec | wait, and say so |

A change of Serve's arguments alone replaces no pod: Serve restarts one replica at a time, which drains by itself. Under
`None` Serve keeps the arguments that the live RayCluster was created with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roost_operator.api.spec import AgentPool, Upgrade
from roost_operator.plan import names
from roost_operator.plan.difference import contains
from roost_operator.plan.observed import Observed, Pod, RayCluster, Worker, WorkerGroup
from roost_operator.plan.scaling import choose_victims, may_go


@dataclass(frozen=True, slots=True)
class Renewal:
    """What to do about pods that were not created from the present template."""

    rewrite: Mapping[str, Any] | None = None
    """Parts of the RayCluster's spec to replace, by JSON pointer."""
    drain: frozenset[str] = frozenset()
    """Ids of the workers that are to drain."""
    remove: tuple[str, ...] = ()
    """Pods to delete; KubeRay creates new ones in their place."""
    renewing: bool = False
    """Whether there is anything left to renew."""


def renewal(pool: AgentPool, desired: RayCluster, group: WorkerGroup | None, observed: Observed) -> Renewal:
    """The next move of an upgrade in place to `desired`, for `group` of the live RayCluster, whose size has settled."""
    live = observed.ray.cluster
    if pool.spec.workers.upgrade is not Upgrade.IN_PLACE or live is None or group is None:
        return Renewal()
    rewrite = _rewrite(desired, live)
    if rewrite:
        return Renewal(None if observed.store.blind else rewrite, renewing=True)
    pods = observed.ray.pods_of(group)
    old = [pod for pod in pods if pod.template != group.marks.get(names.TEMPLATE, "")]
    if not old or observed.store.blind:
        return Renewal(renewing=bool(old))
    victims = _victims([pod for pod in old if not pod.deleting], pods, observed, pool.spec.workers.replicas)
    drain_seconds = float(pool.spec.workers.drain_timeout_seconds)
    going = (pod.name for pod in victims if may_go(observed.worker_of(pod), drain_seconds))
    drain = frozenset(worker.worker_id for worker in observed.workers_in(victims))
    return Renewal(None, drain, tuple(name for name in going if name not in group.workers_to_delete), renewing=True)


def change_waits(pool: AgentPool, desired: RayCluster, observed: Observed) -> bool:
    """Whether a change waits because `upgrade` is None."""
    return pool.spec.workers.upgrade is Upgrade.NONE and differs(desired, observed.ray.cluster)


def differs(desired: RayCluster, live: RayCluster | None) -> bool:
    """Whether the live RayCluster was created, or renewed, from other templates or for other arguments than `desired`.
    KubeRay reports that only seconds later."""
    if live is None:
        return False
    return desired.head_marks != live.head_marks or _group_marks(desired) != _group_marks(live)


def kept_arguments(pool: AgentPool, observed: Observed) -> Mapping[str, Any] | None:
    """Arguments that Serve keeps under `upgrade: None`; None for those of the spec. Arguments that the live RayCluster
    was not created with were written by somebody else and are not kept."""
    cluster, service = observed.ray.cluster, observed.ray.service
    if pool.spec.workers.upgrade is not Upgrade.NONE or cluster is None or service is None:
        return None
    arguments = service.arguments
    created_with = cluster.head_marks.get(names.ARGUMENTS)
    return arguments if arguments is not None and names.digest(arguments) == created_with else None


def _group_marks(cluster: RayCluster) -> dict[str, Mapping[str, str]]:
    return {group.name: group.marks for group in cluster.groups}


def _rewrite(desired: RayCluster, live: RayCluster) -> dict[str, Any]:
    """Parts of the live RayCluster to replace, by JSON pointer."""
    parts: dict[str, tuple[Any, Any]] = {
        "/spec/headGroupSpec": (desired.head, live.head),
        "/spec/rayVersion": (desired.ray_version, live.ray_version),
    }
    for group in desired.groups:
        present = live.group(group.name)
        if present is not None:
            path = f"/spec/workerGroupSpecs/{present.index}"
            parts[f"{path}/template"] = (group.template, present.template)
            parts[f"{path}/rayStartParams"] = (group.start_params, present.start_params)
    return {path: wanted for path, (wanted, present) in parts.items() if not contains(present, wanted)}


def _victims(old: list[Pod], pods: Sequence[Pod], observed: Observed, wanted: int) -> list[Pod]:
    """Pods that are to go now. At most one worker is missing or draining at any time."""
    empty = [pod for pod in old if observed.worker_of(pod) is None]
    if empty:
        return empty
    leaving = [pod for pod in old if _drains(observed.worker_of(pod))]
    if leaving:
        return leaving
    workers = observed.workers_in([pod for pod in pods if not pod.deleting])
    taking_steps = sum(not _drains(worker) for worker in workers)
    return choose_victims(old, observed, 1) if taking_steps >= wanted else []


def _drains(worker: Worker | None) -> bool:
    return worker is not None and (worker.draining or worker.drain_seconds is not None)
