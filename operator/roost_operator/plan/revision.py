"""Which revision of the model new steps run on, and which workers make way for others. Pure."""

from collections.abc import Sequence

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
    published = seen.store.document.active_revision if seen.store.document else ""
    if fresh and (len(fresh) >= wanted or not published):
        return _most(fresh, published)
    if any(worker.revision == published for worker in seen.workers):
        return published
    return _most(fresh, published) if fresh else published


def _most(revisions: Sequence[str], published: str) -> str:
    """The revision of most workers; between equals the published one stays, as in the middle of an upgrade in place."""
    return max(sorted(set(revisions)), key=lambda one: (revisions.count(one), one == published))


def replaced_workers(seen: Observed, wanted: int, *, keeps_sessions: bool = False) -> frozenset[str]:
    """Workers of old clusters, once the new one has all of its own: they drain, and their sessions move.

    With `keeps_sessions` (onModelChange: Refuse) those of another revision go on taking their own sessions' steps,
    which no other worker can take, until KubeRay deletes their cluster, the drain time after the switch.
    """
    fresh = newest_workers(seen)
    if len(fresh) < wanted:
        return frozenset()
    revisions = {worker.revision for worker in fresh}
    old = [worker for worker in seen.workers if worker not in fresh]
    return frozenset(worker.worker_id for worker in old if not keeps_sessions or worker.revision in revisions)


def is_upgrading(seen: Observed) -> bool:
    """Whether pods of another cluster than the one that is to stay are still there, or one is to come."""
    service = seen.service or {}
    pending = ((service.get("status") or {}).get("pendingServiceStatus") or {}).get("rayClusterName")
    active = ((service.get("status") or {}).get("activeServiceStatus") or {}).get("rayClusterName")
    return bool(pending and active)
