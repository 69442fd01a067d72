"""Which revision of the model new steps run on, and which workers make way for others. Pure."""

from collections.abc import Mapping
from typing import Any

from roost_operator.plan.observed import Observed, Worker


def newest_workers(seen: Observed) -> list[Worker]:
    """Workers of the cluster that is to stay. A worker whose pod is not known counts as one of them."""
    name = seen.cluster["metadata"]["name"] if seen.cluster else ""
    old = {pod.address for pod in seen.pods if pod.address and pod.cluster != name}
    return [worker for worker in seen.workers if worker.address not in old]


def active_revision(seen: Observed, wanted: int) -> str:
    """The revision of the newest cluster's workers once there are enough of them; till then the published one, as long
    as anybody serves it. Empty: nobody serves yet, and any worker's revision will do."""
    fresh = [worker.revision for worker in newest_workers(seen) if not worker.draining]
    published = str(_document(seen).get("activeRevision") or "")
    if fresh and (len(fresh) >= wanted or not published):
        return max(sorted(set(fresh)), key=fresh.count)
    if any(worker.revision == published for worker in seen.workers):
        return published
    return max(sorted(set(fresh)), key=fresh.count) if fresh else published


def replaced_workers(seen: Observed, wanted: int) -> frozenset[str]:
    """Workers of old clusters, once the new one has all of its own: they drain, and their sessions move."""
    fresh = newest_workers(seen)
    if len(fresh) < wanted:
        return frozenset()
    return frozenset(worker.worker_id for worker in seen.workers if worker not in fresh)


def is_upgrading(seen: Observed) -> bool:
    """Whether pods of another cluster than the one that is to stay are still there, or one is to come."""
    service = seen.service or {}
    pending = ((service.get("status") or {}).get("pendingServiceStatus") or {}).get("rayClusterName")
    active = ((service.get("status") or {}).get("activeServiceStatus") or {}).get("rayClusterName")
    return bool(pending and active)


def _document(seen: Observed) -> Mapping[str, Any]:
    return seen.store.document or {}
