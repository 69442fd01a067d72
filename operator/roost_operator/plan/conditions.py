"""Conditions of a pool, derived from facts. Pure. `roost_operator.plan.reasons` tells what each reason means.

The first row that holds decides `Ready`, and `Progressing` and `Degraded` with it:

| fact | Ready | Progressing | Degraded | reason |
|---|---|---|---|---|
| the pool is being deleted | False | True | False | Deleting |
| the spec cannot be read | False | False | True | InvalidSpec |
| the pod template cannot be used | False | False | True | InvalidTemplate |
| a child cannot be made | False | False | True | ChildRefused |
| KubeRay is not installed | False | False | True | KubeRayMissing |
| a Secret of the spec is missing | False | False | True | SecretMissing |
| the store does not answer | False | False | True | StoreUnavailable |
| suspended, workers still drain | False | True | False | Suspending |
| suspended | False | False | False | Suspended |
| too few new workers: a pod's image | as workers | False | True | ImageUnavailable |
| too few new workers: no node has room | as workers | False | True | Unschedulable |
| too few new workers: the model | as workers | False | True | ModelUnavailable |
| too few new workers: one ends again and again | as workers | False | True | WorkerFails |
| too few new workers: KubeRay or Serve fails | as workers | False | True | RayFails |
| KubeRay does not look at the RayService | as workers | False | True | KubeRaySilent |
| new pods replace the old | as workers | True | False | Upgrading |
| pods or replicas are to change | as workers | True | False | Scaling |
| fewer workers take steps than wanted | False | True | False | WorkersStarting |
| a change waits, since upgrade is None | True | False | False | ChangeHeld |
| all workers take steps | True | False | False | AllWorkersReady |

"As workers": True while as many workers as wanted take steps, the old ones of an upgrade included. "New workers" are
those of the pods that are to stay.

`Available` is True (WorkersReady) when a worker takes steps, the pool is not suspended and the store answers; else
False (NoWorker). A store that may lose commits sets Degraded to True (WeakDurability) in rows where it is False.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from roost_operator.api.status import ConditionType
from roost_operator.plan.reasons import Reason, told


@dataclass(frozen=True, slots=True)
class Facts:
    """What the conditions are derived from; texts are empty when nothing is wrong."""

    desired: int
    ready: int
    """Workers that take steps, those that are to be replaced included; at most `desired` of these."""
    fresh: int | None = None
    """Workers that take steps and are to stay; None: as `ready`."""
    deleting: bool = False
    unreadable: str = ""
    template: str = ""
    refused: str = ""
    kuberay: bool = True
    missing_secrets: tuple[str, ...] = ()
    store: str = ""
    weaknesses: tuple[str, ...] = ()
    suspend: bool = False
    stopped: bool = False
    image: str = ""
    unschedulable: str = ""
    model: str = ""
    crashing: str = ""
    ray: str = ""
    silent: str = ""
    upgrading: bool = False
    scaling: bool = False
    held: bool = False

    @property
    def complete(self) -> bool:
        """Whether as many workers as wanted take steps."""
        return self.ready >= self.desired

    @property
    def counted(self) -> str:
        return f"{self.ready} of {self.desired} workers take steps"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The row of the table that holds."""

    reason: Reason
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
        return Verdict(Reason.DELETING, told(Reason.DELETING), progressing=True)
    secrets = ", ".join(facts.missing_secrets)
    rows = (
        (facts.unreadable, Reason.INVALID_SPEC, facts.unreadable),
        (facts.template, Reason.INVALID_TEMPLATE, facts.template),
        (facts.refused, Reason.CHILD_REFUSED, facts.refused),
        (not facts.kuberay, Reason.KUBERAY_MISSING, ""),
        (secrets, Reason.SECRET_MISSING, f"{secrets}: not found in the pool's namespace"),
        (facts.store, Reason.STORE_UNAVAILABLE, f"the session store does not answer: {facts.store}"),
    )
    return next((Verdict(reason, told(reason, found), degraded=True) for holds, reason, found in rows if holds), None)


def _suspended(facts: Facts) -> Verdict | None:
    if not facts.suspend:
        return None
    if not facts.stopped:
        return Verdict(Reason.SUSPENDING, told(Reason.SUSPENDING), progressing=True)
    return Verdict(Reason.SUSPENDED, told(Reason.SUSPENDED))


def _failing(facts: Facts) -> Verdict | None:
    fresh = facts.ready if facts.fresh is None else facts.fresh
    rows = (
        (facts.image, Reason.IMAGE_UNAVAILABLE),
        (facts.unschedulable, Reason.UNSCHEDULABLE),
        (facts.model, Reason.MODEL_UNAVAILABLE),
        (facts.crashing, Reason.WORKER_FAILS),
        (facts.ray, Reason.RAY_FAILS),
    )
    found = next(((text, reason) for text, reason in rows if text and fresh < facts.desired), None)
    text, reason = found or (facts.silent, Reason.KUBERAY_SILENT)
    return Verdict(reason, told(reason, text), ready=facts.complete, degraded=True) if text else None


def _working(facts: Facts) -> Verdict:
    if facts.upgrading:
        text = f"{Reason.UPGRADING.meaning}; {facts.counted}"
        return Verdict(Reason.UPGRADING, text, ready=facts.complete, progressing=True)
    if facts.scaling:
        return Verdict(Reason.SCALING, facts.counted, ready=facts.complete, progressing=True)
    if not facts.complete:
        return Verdict(Reason.WORKERS_STARTING, facts.counted, progressing=True)
    if facts.held:
        return Verdict(Reason.CHANGE_HELD, told(Reason.CHANGE_HELD), ready=True)
    return Verdict(Reason.ALL_WORKERS_READY, facts.counted, ready=True)


def _available(facts: Facts) -> tuple[bool, Reason, str]:
    if facts.ready and not facts.suspend and not facts.store and not facts.deleting:
        return True, Reason.WORKERS_READY, f"{facts.ready} workers take steps"
    return False, Reason.NO_WORKER, told(Reason.NO_WORKER)


def _degraded(row: Verdict, facts: Facts) -> tuple[bool, Reason, str]:
    if row.degraded:
        return True, row.reason, row.message
    if facts.weaknesses:
        return True, Reason.WEAK_DURABILITY, "; ".join(facts.weaknesses)
    return False, Reason.AS_EXPECTED, told(Reason.AS_EXPECTED)


def _condition(
    kind: ConditionType,
    holds: bool,
    reason: Reason,
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
        "reason": reason.value,
        "message": message[:1024],
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }
