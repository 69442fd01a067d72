"""What keeps workers from running, as the kubelet, the scheduler, KubeRay and Ray Serve report it. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from roost_operator.plan.observed import Observed, Pod, Ray

SILENCE_SECONDS = 15.0
"""How long KubeRay, which looks every 2 s, may take to notice a RayService."""
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_ROOM = ("Unschedulable",)
_CRASH = ("CrashLoopBackOff", "RunContainerError", "CreateContainerError", "CreateContainerConfigError")
_RETRIED = ("failed to start", "Error:\n")
"""What Serve reports of replicas whose constructor failed, both while it tries again and when it has given up."""
_MODEL = re.compile(r"(?:ConvertError|ModelConfigError|WeightsError|RenderError): (?P<text>.+)")
_MAX_TEXT = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Troubles:
    """A text for each thing that is wrong, else empty."""

    image: str = ""
    unschedulable: str = ""
    crashing: str = ""
    model: str = ""
    ray: str = ""
    silent: str = ""


def troubles(observed: Observed, desired: int) -> Troubles:
    """What is wrong with the cluster that is to stay, of which `desired` workers are wanted."""
    ray = observed.ray
    pods = [pod for pod in (*ray.heads, *ray.pods) if not pod.deleting and ray.stays(pod)]
    failed_start = _failed_start(ray)
    model = _MODEL.findall(failed_start)
    crashing = _pod_trouble(pods, _CRASH)
    if failed_start and not model:
        crashing = crashing or f"a worker cannot start: {_last_line(failed_start)}"
    return Troubles(
        image=_pod_trouble(pods, _IMAGE),
        unschedulable=_pod_trouble(pods, _ROOM),
        crashing=crashing,
        model=model[-1].strip()[:_MAX_TEXT] if model else "",
        ray=_kuberay_trouble(ray) or _serve_trouble(ray, desired),
        silent="KubeRay has not looked at the RayService" if _is_silent(ray, observed.now) else "",
    )


def _pod_trouble(pods: Iterable[Pod], reasons: tuple[str, ...]) -> str:
    """The first pod that has one of the reasons, with what is reported of it."""
    texts = (f"pod {pod.name}: {pod.trouble}: {pod.message}".rstrip(": ") for pod in pods if pod.trouble in reasons)
    return next(texts, "")


def _kuberay_trouble(ray: Ray) -> str:
    if ray.service is not None and ray.service.refusal is not None:
        return f"KubeRay refuses the RayService: {ray.service.refusal}"
    if ray.pod_failure is not None:
        return f"KubeRay cannot make or delete a pod: {ray.pod_failure}"
    return ""


def _serve_trouble(ray: Ray, desired: int) -> str:
    """A deployment that failed for good, or that is unhealthy although all of its pods run. A pod that is gone takes
    its replica with it; that is not a failure of Serve's."""
    running = sum(pod.running and not pod.deleting and ray.stays(pod) for pod in ray.pods)
    for application in ray.service.applications if ray.service else ():
        unhealthy = application.status == "UNHEALTHY" and running >= desired
        if application.status == "DEPLOY_FAILED" or unhealthy:
            message = application.messages[0][-_MAX_TEXT:] if application.messages else application.status
            return f"Ray Serve cannot run the workers: {message}"
    return ""


def _failed_start(ray: Ray) -> str:
    """What Serve reports of a replica's constructor that failed, with its traceback."""
    applications = ray.service.applications if ray.service else ()
    messages = (message for application in applications for message in application.messages)
    return next((message for message in messages if all(part in message for part in _RETRIED)), "")


def _is_silent(ray: Ray, now: float) -> bool:
    """Whether KubeRay has not noticed the RayService for a while."""
    since = ray.service.unnoticed_since if ray.service else None
    return since is not None and now - since > SILENCE_SECONDS


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:_MAX_TEXT]
