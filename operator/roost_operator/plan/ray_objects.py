"""Parses KubeRay's objects into the types of `plan.observed`. Pure.

Both live objects and the desired RayCluster go through here, so that the planner compares like with like.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import yaml

from roost_operator.plan.observed import ApplicationStatus, Manifest, RayCluster, RayService, WorkerGroup

_REFUSALS = ("ValidationFailed", "InitializingTimeout")
"""Reasons of the RayService's condition Ready when KubeRay does not go on with it."""
_STATUSES = ("pendingServiceStatus", "activeServiceStatus")


def parse_cluster(document: Manifest) -> RayCluster:
    """A RayCluster; of one that is only desired, `document` has no name and no status."""
    spec = document.get("spec") or {}
    return RayCluster(
        name=(document.get("metadata") or {}).get("name", ""),
        head=spec.get("headGroupSpec") or {},
        groups=tuple(_group(index, group) for index, group in enumerate(spec.get("workerGroupSpecs") or ())),
        ray_version=spec.get("rayVersion", ""),
        keeps_state="gcsFaultToleranceOptions" in spec,
        pod_failure=_condition_message(document, "ReplicaFailure", "status", ("True",)),
    )


def desired_cluster(service: Manifest) -> RayCluster:
    """The RayCluster that a RayService asks for."""
    return parse_cluster({"spec": service["spec"]["rayClusterConfig"]})


def parse_service(document: Manifest) -> RayService:
    """A live RayService."""
    spec, status = document.get("spec") or {}, document.get("status") or {}
    config = spec.get("rayClusterConfig") or {}
    created = document["metadata"].get("creationTimestamp")
    replicas, arguments = _serve_application(spec)
    pending, active = ((status.get(part) or {}).get("rayClusterName") or "" for part in _STATUSES)
    return RayService(
        unnoticed_since=datetime.fromisoformat(created).timestamp() if created and not status else None,
        suspended=bool(config.get("suspend")),
        token_auth="authOptions" in config,
        replicas=replicas,
        arguments=arguments,
        active_cluster=active,
        pending_cluster=pending,
        refusal=_condition_message(document, "Ready", "reason", _REFUSALS),
        applications=tuple(_application_statuses(status)),
    )


def staying_cluster(service: RayService | None, clusters: Iterable[RayCluster]) -> RayCluster | None:
    """The RayCluster that is to stay: the pending one, else the active one."""
    by_name = {cluster.name: cluster for cluster in clusters}
    candidates = (service.pending_cluster, service.active_cluster) if service else ()
    return next((by_name[name] for name in candidates if name in by_name), None)


def _group(index: int, group: Manifest) -> WorkerGroup:
    return WorkerGroup(
        name=group.get("groupName", ""),
        index=index,
        replicas=group.get("replicas") or 0,
        workers_to_delete=frozenset((group.get("scaleStrategy") or {}).get("workersToDelete") or ()),
        template=group.get("template") or {},
        start_params=group.get("rayStartParams") or {},
    )


def _serve_application(spec: Manifest) -> tuple[int | None, dict[str, Any] | None]:
    """Replicas and arguments of the pool's Serve application, the only one of its RayService; None for what its
    configuration does not say."""
    try:
        (application,) = yaml.safe_load(spec.get("serveConfigV2") or "")["applications"]
    except (KeyError, TypeError, ValueError, yaml.YAMLError):
        return None, None
    arguments = application.get("args") if isinstance(application, dict) else None
    try:
        (deployment,) = application["deployments"]
        replicas = int(deployment["num_replicas"])
    except (KeyError, TypeError, ValueError):
        replicas = None
    return replicas, arguments if isinstance(arguments, dict) else None


def _application_statuses(status: Manifest) -> Iterator[ApplicationStatus]:
    for kind in _STATUSES:
        for application in ((status.get(kind) or {}).get("applicationStatuses") or {}).values():
            deployments = (application.get("serveDeploymentStatuses") or {}).values()
            messages = (str(part.get("message") or "").strip() for part in (*deployments, application))
            yield ApplicationStatus(application.get("status", ""), tuple(message for message in messages if message))


def _condition_message(document: Manifest, kind: str, field: str, values: Sequence[str]) -> str | None:
    """The message of the condition of this kind if its `field` is one of `values`, else None."""
    for condition in (document.get("status") or {}).get("conditions") or ():
        if condition.get("type") == kind and condition.get(field) in values:
            return str(condition.get("message") or "")
    return None
