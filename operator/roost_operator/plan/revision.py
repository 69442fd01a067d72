"""Which revision of the model new steps run on, and which workers make way for others. Pure."""

from collections.abc import Sequence

from roost_operator.plan.observed import Observed, Worker


def newest_workers(observed: Observed) -> list[Worker]:
    """Workers of the cluster that is to stay. A worker whose pod is not known counts as one of them."""
    cluster = observed.ray.cluster.name if observed.ray.cluster else ""
    old = {pod.address for pod in observed.ray.pods if pod.address and pod.cluster != cluster}
    return [worker for worker in observed.workers if worker.address not in old]


def active_revision(observed: Observed, wanted: int) -> str:
    """The revision that new steps run on; empty while there is no worker, when any worker's revision will do.

    It is the newest cluster's once `wanted` of its workers take steps, and until then the published one as long as any
    worker serves that.
    """
    newest = [worker.revision for worker in newest_workers(observed) if not worker.draining]
    published = observed.store.document.active_revision if observed.store.document else ""
    if newest and (len(newest) >= wanted or not published):
        return _most_frequent(newest, published)
    if any(worker.revision == published for worker in observed.workers):
        return published
    return _most_frequent(newest, published) if newest else published


def _most_frequent(revisions: Sequence[str], published: str) -> str:
    """The revision of most workers; at a tie the published one, as half-way through an upgrade in place."""
    return max(sorted(set(revisions)), key=lambda revision: (revisions.count(revision), revision == published))


def replaced_workers(observed: Observed, wanted: int, *, keeps_sessions: bool = False) -> frozenset[str]:
    """Ids of the old clusters' workers once the new one has all of its own: they drain, and their sessions move.

    With `keeps_sessions` (onModelChange: Refuse) those of another revision go on taking their own sessions' steps,
    which no other worker can take, until KubeRay deletes their cluster, the drain time after the switch.
    """
    newest = newest_workers(observed)
    if len(newest) < wanted:
        return frozenset()
    revisions = {worker.revision for worker in newest}
    old = [worker for worker in observed.workers if worker not in newest]
    return frozenset(worker.worker_id for worker in old if not keeps_sessions or worker.revision in revisions)


def is_upgrading(observed: Observed) -> bool:
    """Whether KubeRay has a second cluster that is to replace the active one."""
    service = observed.ray.service
    return service is not None and bool(service.pending_cluster and service.active_cluster)
