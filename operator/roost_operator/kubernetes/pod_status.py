"""What a plan needs to know of a pod, from what KubeRay, the kubelet and the scheduler write on it. Pure."""

from collections.abc import Mapping
from typing import Any

from roost_operator.plan import names
from roost_operator.plan.observed import Pod

_CLUSTER_LABEL, _GROUP_LABEL, _KIND_LABEL = "ray.io/cluster", "ray.io/group", "ray.io/node-type"
_STARTING = ("ContainerCreating", "PodInitializing")


def is_node(pod: Mapping[str, Any]) -> bool:
    """Whether the pod is a node of a Ray cluster. KubeRay's Jobs that remove a head's state carry the head's labels."""
    return (pod["metadata"].get("labels") or {}).get(_KIND_LABEL) != "redis-cleanup"


def parse_pod(pod: Mapping[str, Any]) -> Pod:
    """A pod of a RayCluster."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    labels = metadata.get("labels") or {}
    trouble, message = _trouble(status)
    return Pod(
        name=metadata["name"],
        cluster=labels.get(_CLUSTER_LABEL, ""),
        group=labels.get(_GROUP_LABEL, ""),
        address=status.get("podIP", ""),
        running=status.get("phase") == "Running",
        deleting="deletionTimestamp" in metadata,
        trouble=trouble,
        message=message,
        template=(metadata.get("annotations") or {}).get(names.TEMPLATE, ""),
    )


def _trouble(status: Mapping[str, Any]) -> tuple[str, str]:
    """Reason and message of what keeps the pod from running; both empty when nothing does."""
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] not in _STARTING:
            messages = (str(waiting.get("message") or ""), _last_end(container))
            return str(waiting["reason"]), "; ".join(message for message in messages if message)
    for condition in status.get("conditions") or ():
        if condition.get("reason") == "Unschedulable":
            return "Unschedulable", str(condition.get("message") or "")
    return "", ""


def _last_end(container: Mapping[str, Any]) -> str:
    """How the container's last run ended."""
    terminated = (container.get("lastState") or {}).get("terminated") or {}
    if not terminated:
        return ""
    message = str(terminated.get("message") or "").strip()
    detail = f": {message[-300:]}" if message else ""
    return f"it ended with {terminated.get('exitCode')} ({terminated.get('reason', 'Error')}){detail}"
