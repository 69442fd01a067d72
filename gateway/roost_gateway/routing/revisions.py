"""Which revision of the model a session's log is of, and what a changed one means for its next step. Pure."""

from collections.abc import Sequence

from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.records import Descriptor
from roost_gateway.routing.choice import WorkerState


def migrates(pool: PoolDocument, descriptor: Descriptor) -> bool:
    """Whether the log has to be rendered for the pool's revision of the model, since it is of another one."""
    return pool.migrates and pool.active_revision != "" and descriptor.bound_revision not in ("", pool.active_revision)


def serves_revision(revision: str, workers: Sequence[WorkerState]) -> bool:
    """Whether any worker, draining or not, serves the revision; an empty one stands for any."""
    return any(revision in ("", worker.model_revision) for worker in workers)


def turned_away(pool: PoolDocument, bound: str, workers: Sequence[WorkerState]) -> Refused | None:
    """Why a step that needs a worker of revision `bound` will never get one; None when it may.

    A revision that the pool has turned away from does not come back.
    """
    if not workers or bound in ("", pool.active_revision) or not pool.active_revision:
        return None
    alive = [worker for worker in workers if worker.model_revision == bound]
    if not pool.migrates:
        return None if alive else wrong_revision(bound)
    if any(not worker.lease.draining for worker in alive):
        return None
    return Refused(
        Reason.WORKER_LOST,
        "the pool's model changed and no worker can end this step as it was begun; send it again",
        retry_seconds=0.0,
    )


def wrong_revision(bound: str) -> Refused:
    return Refused(
        Reason.MODEL_REVISION_MISMATCH,
        f"the session was begun on revision {bound} of the model, which no worker serves any more; open another "
        "session, or set sessions.onModelChange to Migrate",
    )
