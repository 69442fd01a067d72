"""What a plan needs of a pod, from the kubelet's and the scheduler's words. Pure."""

from collections.abc import Mapping
from typing import Any

from roost_operator.plan import names
from roost_operator.plan.observed import Pod

_CLUSTER_LABEL = "ray.io/cluster"
_KIND_LABEL = "ray.io/node-type"
_STARTING = ("ContainerCreating", "PodInitializing")


def is_node(pod: Mapping[str, Any]) -> bool:
    """Whether it is a node of a Ray cluster. KubeRay's Jobs that remove a head's state carry the head's labels."""
    return (pod["metadata"].get("labels") or {}).get(_KIND_LABEL) != "redis-cleanup"


def pod_of(pod: Mapping[str, Any]) -> Pod:
    """What a plan needs of a pod."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    trouble, message = _trouble(status)
    return Pod(
        name=metadata["name"],
        cluster=(metadata.get("labels") or {}).get(_CLUSTER_LABEL, ""),
        address=status.get("podIP", ""),
        running=status.get("phase") == "Running",
        deleting="deletionTimestamp" in metadata,
        trouble=trouble,
        message=message,
        template=(metadata.get("annotations") or {}).get(names.TEMPLATE, ""),
    )


def _trouble(status: Mapping[str, Any]) -> tuple[str, str]:
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] not in _STARTING:
            words = (str(waiting.get("message") or ""), _end(container))
            return str(waiting["reason"]), "; ".join(word for word in words if word)
    for condition in status.get("conditions") or ():
        if condition.get("reason") == "Unschedulable":
            return "Unschedulable", str(condition.get("message") or "")
    return "", ""


def _end(container: Mapping[str, Any]) -> str:
    """How the container ended before."""
    ended = (container.get("lastState") or {}).get("terminated") or {}
    if not ended:
        return ""
    last_words = str(ended.get("message") or "").strip()
    said = f": {last_words[-300:]}" if last_words else ""
    return f"it ended with {ended.get('exitCode')} ({ended.get('reason', 'Error')}){said}"
