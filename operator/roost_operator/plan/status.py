"""The status of a pool and the events of its changes, derived from what was seen. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roost_operator.api.spec import AgentPool
from roost_operator.plan import names
from roost_operator.plan.conditions import Facts, conditions
from roost_operator.plan.observed import Observed, Pod
from roost_operator.plan.revision import is_upgrading, newest_workers

_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_ROOM = ("Unschedulable",)
_CRASH = ("CrashLoopBackOff", "RunContainerError", "CreateContainerError", "CreateContainerConfigError", "OOMKilled")
_SERVE_FAILS = ("DEPLOY_FAILED", "UNHEALTHY")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that people are told once."""

    kind: str
    """Normal or Warning."""
    reason: str
    message: str


def facts(pool: AgentPool, seen: Observed, desired: int, template: str, *, stopped: bool, scaling: bool) -> Facts:
    """What the conditions are derived from."""
    return Facts(
        desired=desired,
        ready=_ready(seen),
        deleting=seen.deleted_at is not None,
        template=template,
        kuberay=seen.kuberay,
        missing_secrets=seen.missing_secrets,
        store=seen.store.problem,
        weaknesses=seen.store.weaknesses,
        suspend=pool.spec.suspend,
        stopped=stopped,
        image=_trouble(seen.pods, _IMAGE),
        unschedulable=_trouble(seen.pods, _ROOM),
        crashing=_trouble(seen.pods, _CRASH),
        ray=_ray_trouble(seen),
        upgrading=is_upgrading(seen),
        scaling=scaling,
    )


def pool_status(pool: AgentPool, seen: Observed, found: Facts, revision: str) -> dict[str, Any]:
    """The whole status. Numbers of sessions stay when they were not counted."""
    before = seen.status
    selector = names.selector(pool, names.WORKER)
    status: dict[str, Any] = {
        "observedGeneration": seen.generation,
        "conditions": conditions(found, before.get("conditions") or [], seen.generation, seen.now),
        "activeRevision": revision,
        "workers": {"desired": found.desired, "ready": found.ready},
        "selector": ",".join(f"{name}={value}" for name, value in sorted(selector.items())),
    }
    if seen.sessions is not None:
        status["sessions"] = dict(zip(("hot", "warm", "cold"), seen.sessions, strict=True))
    elif "sessions" in before:
        status["sessions"] = before["sessions"]
    return status


def transitions(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Event, ...]:
    """An event for each new reason of Ready, and for a condition Degraded that came or went."""
    old, new = _by_type(before), _by_type(after)
    events = []
    for kind in ("Ready", "Degraded"):
        was, now = old.get(kind, {}), new.get(kind, {})
        same = (was.get("status"), was.get("reason")) == (now.get("status"), now.get("reason"))
        if not same and not (kind == "Degraded" and (not was or now["reason"] == new["Ready"]["reason"])):
            bad = new["Degraded"]["status"] == "True"
            events.append(Event("Warning" if bad else "Normal", now["reason"], now["message"]))
    return tuple(events)


def _by_type(status: Mapping[str, Any]) -> dict[str, Any]:
    return {condition["type"]: condition for condition in status.get("conditions") or ()}


def _ready(seen: Observed) -> int:
    return sum(not worker.draining and worker.drain_seconds is None for worker in newest_workers(seen))


def _trouble(pods: tuple[Pod, ...], reasons: tuple[str, ...]) -> str:
    found = next((pod for pod in pods if pod.trouble in reasons and not pod.deleting), None)
    return f"pod {found.name}: {found.trouble}: {found.message}".rstrip(": ") if found else ""


def _ray_trouble(seen: Observed) -> str:
    status = (seen.service or {}).get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready" and condition.get("reason") in ("ValidationFailed", "InitializingTimeout"):
            return f"KubeRay refuses the RayService: {condition.get('message', '')}"
    for part in ("pendingServiceStatus", "activeServiceStatus"):
        for application in ((status.get(part) or {}).get("applicationStatuses") or {}).values():
            if application.get("status") in _SERVE_FAILS:
                return f"Ray Serve cannot run the workers: {_why(application)}"
    return ""


def _why(application: Mapping[str, Any]) -> str:
    deployments = (application.get("serveDeploymentStatuses") or {}).values()
    told = [str(application.get("message") or ""), *(str(one.get("message") or "") for one in deployments)]
    return next((text.strip()[-600:] for text in told if text.strip()), str(application.get("status")))
