"""What keeps workers from running, in the words of the kubelet, the scheduler, KubeRay and Ray Serve. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from roost_operator.plan.observed import Observed, Pod

SILENCE_SECONDS = 15.0
"""How long KubeRay, which looks every 2 s, may take to notice a RayService."""
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_ROOM = ("Unschedulable",)
_CRASH = ("CrashLoopBackOff", "RunContainerError", "CreateContainerError", "CreateContainerConfigError")
_REFUSED = ("ValidationFailed", "InitializingTimeout")
_RETRIED = ("failed to start", "Error:\n")
"""What Serve says of replicas whose constructor failed, both while it tries again and when it does not."""
_MODEL = re.compile(r"(?:ConvertError|ModelConfigError|WeightsError|RenderError): (?P<text>.+)")
_MOST_TEXT = 600


@dataclass(frozen=True, slots=True)
class Troubles:
    """A text for each thing that is wrong, else empty; the names are those of `Facts`."""

    image: str = ""
    unschedulable: str = ""
    crashing: str = ""
    model: str = ""
    ray: str = ""
    silent: str = ""


def troubles(seen: Observed, desired: int) -> Troubles:
    """What is wrong with the cluster that is to stay; `desired` workers are wanted."""
    pods = [pod for pod in (*seen.heads, *seen.pods) if not pod.deleting and _stays(pod, seen)]
    failed = _failed_start(seen)
    model = _MODEL.findall(failed)
    crashing = _pod_trouble(pods, _CRASH)
    if failed and not model:
        crashing = crashing or f"a worker cannot start: {_last_line(failed)}"
    return Troubles(
        image=_pod_trouble(pods, _IMAGE),
        unschedulable=_pod_trouble(pods, _ROOM),
        crashing=crashing,
        model=model[-1].strip()[:_MOST_TEXT] if model else "",
        ray=_kuberay_trouble(seen) or _serve_trouble(seen, desired),
        silent=_silence(seen),
    )


def _stays(pod: Pod, seen: Observed) -> bool:
    return seen.cluster is None or pod.cluster == seen.cluster["metadata"]["name"]


def _pod_trouble(pods: list[Pod], reasons: tuple[str, ...]) -> str:
    found = next((pod for pod in pods if pod.trouble in reasons), None)
    return f"pod {found.name}: {found.trouble}: {found.message}".rstrip(": ") if found else ""


def _kuberay_trouble(seen: Observed) -> str:
    for condition in _conditions(seen.service):
        if condition.get("type") == "Ready" and condition.get("reason") in _REFUSED:
            return f"KubeRay refuses the RayService: {condition.get('message', '')}"
    for condition in _conditions(seen.cluster):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return f"KubeRay cannot make or delete a pod: {condition.get('message', '')}"
    return ""


def _serve_trouble(seen: Observed, desired: int) -> str:
    """A deployment that failed for good, or that is unhealthy though all of its pods run: a pod that is gone takes its
    replica with it, which is no failure of Serve's."""
    running = sum(pod.running and not pod.deleting and _stays(pod, seen) for pod in seen.pods)
    for application in _applications(seen):
        unhealthy = application.get("status") == "UNHEALTHY" and running >= desired
        if application.get("status") == "DEPLOY_FAILED" or unhealthy:
            texts = [text for text in _messages(application) if text]
            return f"Ray Serve cannot run the workers: {texts[0][-_MOST_TEXT:] if texts else application['status']}"
    return ""


def _failed_start(seen: Observed) -> str:
    """What Serve says of a replica's constructor that failed, with its traceback."""
    texts = (text for application in _applications(seen) for text in _messages(application))
    return next((text for text in texts if all(part in text for part in _RETRIED)), "")


def _messages(application: Mapping[str, Any]) -> list[str]:
    """The deployments' words, then the application's, which are shorter."""
    deployments = (application.get("serveDeploymentStatuses") or {}).values()
    return [str(one.get("message") or "").strip() for one in (*deployments, application)]


def _applications(seen: Observed) -> Iterator[Mapping[str, Any]]:
    status = (seen.service or {}).get("status") or {}
    for part in ("pendingServiceStatus", "activeServiceStatus"):
        yield from ((status.get(part) or {}).get("applicationStatuses") or {}).values()


def _silence(seen: Observed) -> str:
    """Whether nobody has looked at a RayService that is there for a while."""
    service = seen.service
    if service is None or service.get("status"):
        return ""
    made = service["metadata"].get("creationTimestamp")
    waited = seen.now - datetime.fromisoformat(made).timestamp() if made else 0.0
    return "KubeRay has not looked at the RayService" if waited > SILENCE_SECONDS else ""


def _conditions(found: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    return ((found or {}).get("status") or {}).get("conditions") or []


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:_MOST_TEXT]
