"""Conditions of a pool, derived from facts. Pure. `plan.reasons` says what each reason means.

The first row that holds decides `Ready`, `Progressing` and `Degraded`:

| fact | Ready | Progressing | Degraded | reason |
|---|---|---|---|---|
| the pool is being deleted | False | True | False | Deleting |
| the spec cannot be read | False | False | True | InvalidSpec |
| the pod template cannot be used | False | False | True | InvalidTemplate |
| a child cannot be created | False | False | True | ChildRefused |
| KubeRay is not installed | False | False | True | KubeRayMissing |
| a Secret of the spec is missing | False | False | True | SecretMissing |
| the store does not answer or refuses to write | False | False | True | StoreUnavailable |
| suspended, workers still drain | False | True | False | Suspending |
| suspended | False | False | False | Suspended |
| too few new workers: a pod's image | as workers | False | True | ImageUnavailable |
| too few new workers: no node has room | as workers | False | True | Unschedulable |
| too few new workers: the model | as workers | False | True | ModelUnavailable |
| too few new workers: one keeps crashing | as workers | False | True | WorkerFails |
| too few new workers: KubeRay or Serve fails | as workers | False | True | RayFails |
| KubeRay does not look at the RayService | as workers | False | True | KubeRaySilent |
| new pods replace the old ones | as workers | True | False | Upgrading |
| the number of pods or replicas is to change | as workers | True | False | Scaling |
| fewer workers take steps than wanted | False | True | False | WorkersStarting |
| a change waits because upgrade is None | True | False | False | ChangeHeld |
| all workers take steps | True | False | False | AllWorkersReady |

"As workers": True while as many workers as wanted take steps, including the old ones of an upgrade. "New workers" are
those of the cluster that is to stay.

`Available` is True (WorkersReady) when a worker takes steps, the pool is not suspended and the store answers; else
False (NoWorker). A store that may lose commits sets Degraded to True (WeakDurability) in rows where it is False.

`ModelLimited` is True (PromptsDiffer) when a worker says that its model is limited, else False; without a worker it is
not known, and left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from roost.contract.model_limits import describe
from roost_operator.api.status import ConditionType
from roost_operator.plan.reasons import ConditionReason
from roost_operator.plan.troubles import Troubles


@dataclass(frozen=True, slots=True)
class Facts(Troubles):
    """What the conditions are derived from. Texts are empty when nothing is wrong."""

    desired: int
    ready: int
    """Workers that take steps, including those that are to be replaced; at most `desired` of these."""
    newest: int | None = None
    """Workers of the cluster that is to stay that take steps; None: as many as `ready`."""
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
    upgrading: bool = False
    scaling: bool = False
    change_waits: bool = False
    limits: tuple[str, ...] | None = None
    """Names of the model's limits; None while no worker says."""

    @property
    def complete(self) -> bool:
        """Whether as many workers as wanted take steps."""
        return self.ready >= self.desired

    @property
    def count(self) -> str:
        return f"{self.ready} of {self.desired} workers take steps"


@dataclass(frozen=True, slots=True)
class Readiness:
    """A row of the table."""

    reason: ConditionReason
    message: str
    ready: bool = False
    progressing: bool = False
    degraded: bool = False


def readiness(facts: Facts) -> Readiness:
    """The first row of the table that holds."""
    return _blocked(facts) or _suspended(facts) or _failing(facts) or _working(facts)


def conditions(facts: Facts, before: Sequence[Mapping[str, Any]], generation: int, now: float) -> list[dict[str, Any]]:
    """All conditions. One whose status is as in `before` keeps the time of its last transition."""
    row = readiness(facts)
    known = {condition["type"]: condition for condition in before}
    timestamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def condition(kind: ConditionType, holds: bool, reason: ConditionReason, message: str) -> dict[str, Any]:
        status, last = "True" if holds else "False", known.get(kind.value, {})
        since = last.get("lastTransitionTime", timestamp) if last.get("status") == status else timestamp
        return {
            "type": kind.value,
            "status": status,
            "reason": reason.value,
            "message": message[:1024],
            "lastTransitionTime": str(since),
            "observedGeneration": generation,
        }

    limited = [] if facts.limits is None else [condition(ConditionType.MODEL_LIMITED, *_limited(facts.limits))]
    return [
        condition(ConditionType.READY, row.ready, row.reason, row.message),
        condition(ConditionType.AVAILABLE, *_available(facts)),
        condition(ConditionType.PROGRESSING, row.progressing, row.reason, row.message),
        condition(ConditionType.DEGRADED, *_degraded(row, facts)),
        *limited,
    ]


def _blocked(facts: Facts) -> Readiness | None:
    if facts.deleting:
        return Readiness(ConditionReason.DELETING, ConditionReason.DELETING.message(), progressing=True)
    secrets = ", ".join(facts.missing_secrets)
    rows = (
        (facts.unreadable, ConditionReason.INVALID_SPEC, facts.unreadable),
        (facts.template, ConditionReason.INVALID_TEMPLATE, facts.template),
        (facts.refused, ConditionReason.CHILD_REFUSED, facts.refused),
        (not facts.kuberay, ConditionReason.KUBERAY_MISSING, ""),
        (secrets, ConditionReason.SECRET_MISSING, f"{secrets}: not found in the pool's namespace"),
        (facts.store, ConditionReason.STORE_UNAVAILABLE, f"the session store cannot be used: {facts.store}"),
    )
    return next((Readiness(reason, reason.message(text), degraded=True) for holds, reason, text in rows if holds), None)


def _suspended(facts: Facts) -> Readiness | None:
    if not facts.suspend:
        return None
    reason = ConditionReason.SUSPENDED if facts.stopped else ConditionReason.SUSPENDING
    return Readiness(reason, reason.message(), progressing=not facts.stopped)


def _failing(facts: Facts) -> Readiness | None:
    rows = [
        (facts.image, ConditionReason.IMAGE_UNAVAILABLE),
        (facts.unschedulable, ConditionReason.UNSCHEDULABLE),
        (facts.model, ConditionReason.MODEL_UNAVAILABLE),
        (facts.crashing, ConditionReason.WORKER_FAILS),
        (facts.ray, ConditionReason.RAY_FAILS),
    ]
    newest = facts.ready if facts.newest is None else facts.newest
    rows = [*(rows if newest < facts.desired else ()), (facts.silent, ConditionReason.KUBERAY_SILENT)]
    failures = (
        Readiness(reason, reason.message(text), ready=facts.complete, degraded=True) for text, reason in rows if text
    )
    return next(failures, None)


def _working(facts: Facts) -> Readiness:
    if facts.upgrading:
        message = f"{ConditionReason.UPGRADING.meaning}; {facts.count}"
        return Readiness(ConditionReason.UPGRADING, message, ready=facts.complete, progressing=True)
    if facts.scaling:
        return Readiness(ConditionReason.SCALING, facts.count, ready=facts.complete, progressing=True)
    if not facts.complete:
        return Readiness(ConditionReason.WORKERS_STARTING, facts.count, progressing=True)
    if facts.change_waits:
        return Readiness(ConditionReason.CHANGE_HELD, ConditionReason.CHANGE_HELD.message(), ready=True)
    return Readiness(ConditionReason.ALL_WORKERS_READY, facts.count, ready=True)


def _available(facts: Facts) -> tuple[bool, ConditionReason, str]:
    if facts.ready and not facts.suspend and not facts.store and not facts.deleting:
        return True, ConditionReason.WORKERS_READY, f"{facts.ready} workers take steps"
    return False, ConditionReason.NO_WORKER, ConditionReason.NO_WORKER.message()


def _degraded(row: Readiness, facts: Facts) -> tuple[bool, ConditionReason, str]:
    if row.degraded:
        return True, row.reason, row.message
    if facts.weaknesses:
        return True, ConditionReason.WEAK_DURABILITY, "; ".join(facts.weaknesses)
    return False, ConditionReason.AS_EXPECTED, ConditionReason.AS_EXPECTED.message()


def _limited(limits: Sequence[str]) -> tuple[bool, ConditionReason, str]:
    if not limits:
        return False, ConditionReason.AS_EXPECTED, ConditionReason.AS_EXPECTED.message()
    return (
        True,
        ConditionReason.PROMPTS_DIFFER,
        ConditionReason.PROMPTS_DIFFER.message("; ".join(map(describe, limits))),
    )
