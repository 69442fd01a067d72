"""Conditions of a pool, derived from facts. Pure.

The first row that holds decides `Ready`, and `Progressing` and `Degraded` with it:

| fact | Ready | Progressing | Degraded | reason |
|---|---|---|---|---|
| the pool is being deleted | False | True | False | Deleting |
| the pod template cannot be used | False | False | True | InvalidTemplate |
| KubeRay is not installed | False | False | True | KubeRayMissing |
| a Secret of the spec is missing | False | False | True | SecretMissing |
| the store does not answer | False | False | True | StoreUnavailable |
| suspended, workers still drain | False | True | False | Suspending |
| suspended | False | False | False | Suspended |
| a pod cannot start: image | False | False | True | ImageUnavailable |
| a pod cannot start: no node has room | False | False | True | Unschedulable |
| a worker's container ends again and again | False | False | True | WorkerFails |
| KubeRay refuses or Serve fails | False | False | True | RayFails |
| a new cluster replaces the old | as workers | True | False | Upgrading |
| pods or replicas are to change | as workers | True | False | Scaling |
| fewer workers ready than wanted | False | True | False | WorkersStarting |
| all workers take steps | True | False | False | AllWorkersReady |

`Available` is True (WorkersReady) when a worker takes steps, the pool is not suspended and the store answers; else
False (NoWorker). A store that may lose commits sets Degraded to True (WeakDurability) in rows where it is False.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from roost_operator.api.status import ConditionType


@dataclass(frozen=True, slots=True)
class Facts:
    """What the conditions are derived from; texts are empty when nothing is wrong."""

    desired: int
    ready: int
    deleting: bool = False
    template: str = ""
    kuberay: bool = True
    missing_secrets: tuple[str, ...] = ()
    store: str = ""
    weaknesses: tuple[str, ...] = ()
    suspend: bool = False
    stopped: bool = False
    image: str = ""
    unschedulable: str = ""
    crashing: str = ""
    ray: str = ""
    upgrading: bool = False
    scaling: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The row of the table that holds."""

    reason: str
    message: str
    ready: bool = False
    progressing: bool = False
    degraded: bool = False


def verdict(facts: Facts) -> Verdict:
    """The first row of the table that holds."""
    return next(found for found in (_blocked(facts), _suspended(facts), _failing(facts), _working(facts)) if found)


def conditions(facts: Facts, before: Sequence[Mapping[str, Any]], generation: int, now: float) -> list[dict[str, Any]]:
    """All conditions, with the time of the last change taken from `before` where the status is the same."""
    row = verdict(facts)
    known = {str(condition["type"]): condition for condition in before}
    degraded = _degraded(row, facts)
    rows = [
        (ConditionType.READY, row.ready, row.reason, row.message),
        (ConditionType.AVAILABLE, *_available(facts)),
        (ConditionType.PROGRESSING, row.progressing, row.reason, row.message),
        (ConditionType.DEGRADED, *degraded),
    ]
    return [_condition(*one, known.get(one[0].value), generation, now) for one in rows]


def _blocked(facts: Facts) -> Verdict | None:
    if facts.deleting:
        return Verdict("Deleting", "workers finish their steps, then everything goes", progressing=True)
    if facts.template:
        return Verdict("InvalidTemplate", facts.template, degraded=True)
    if not facts.kuberay:
        fix = "the cluster knows no RayService; install the KubeRay operator (helm install kuberay-operator)"
        return Verdict("KubeRayMissing", fix, degraded=True)
    if facts.missing_secrets:
        names = ", ".join(facts.missing_secrets)
        return Verdict("SecretMissing", f"{names}: not found in the pool's namespace; create it", degraded=True)
    if facts.store:
        return Verdict("StoreUnavailable", f"the session store does not answer: {facts.store}", degraded=True)
    return None


def _suspended(facts: Facts) -> Verdict | None:
    if not facts.suspend:
        return None
    if not facts.stopped:
        return Verdict("Suspending", "workers finish their steps, then stop", progressing=True)
    return Verdict("Suspended", "no worker runs; sessions are kept; set spec.suspend to false to go on")


def _failing(facts: Facts) -> Verdict | None:
    if facts.ready >= facts.desired:
        return None
    if facts.image:
        return Verdict("ImageUnavailable", f"{facts.image}; check the image's name and pull secrets", degraded=True)
    if facts.unschedulable:
        fix = "add a node with room, or lower the resources in spec.workers.template"
        return Verdict("Unschedulable", f"{facts.unschedulable}; {fix}", degraded=True)
    if facts.crashing:
        return Verdict("WorkerFails", f"{facts.crashing}; see the logs of the pod", degraded=True)
    if facts.ray:
        return Verdict("RayFails", facts.ray, degraded=True)
    return None


def _working(facts: Facts) -> Verdict:
    count = f"{facts.ready} of {facts.desired} workers take steps"
    ready = facts.ready >= facts.desired
    if facts.upgrading:
        return Verdict("Upgrading", f"new workers replace the old ones; {count}", ready=ready, progressing=True)
    if facts.scaling:
        return Verdict("Scaling", count, ready=ready, progressing=True)
    if not ready:
        return Verdict("WorkersStarting", count, progressing=True)
    return Verdict("AllWorkersReady", count, ready=True)


def _available(facts: Facts) -> tuple[bool, str, str]:
    if facts.ready and not facts.suspend and not facts.store and not facts.deleting:
        return True, "WorkersReady", f"{facts.ready} workers take steps"
    return False, "NoWorker", "no step can be taken now"


def _degraded(row: Verdict, facts: Facts) -> tuple[bool, str, str]:
    if row.degraded:
        return True, row.reason, row.message
    if facts.weaknesses:
        return True, "WeakDurability", "; ".join(facts.weaknesses)
    return False, "AsExpected", "nothing is wrong"


def _condition(
    kind: ConditionType,
    holds: bool,
    reason: str,
    message: str,
    before: Mapping[str, Any] | None,
    generation: int,
    now: float,
) -> dict[str, Any]:
    status = "True" if holds else "False"
    since = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if before is not None and before.get("status") == status:
        since = str(before.get("lastTransitionTime", since))
    return {
        "type": kind.value,
        "status": status,
        "reason": reason,
        "message": message[:1024],
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }
