"""Which revision of the model a session's log is of, and what a changed one means for its next step. Pure."""

from collections.abc import Sequence

from roost.contract.heads import Head
from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost.store.records import Descriptor
from roost.v1 import session_service_pb2 as pb
from roost_gateway.convert import head_to_proto
from roost_gateway.routing.choice import WorkerState


def bound_revision(descriptor: Descriptor) -> str:
    """The revision whose tokens the log holds; empty while it holds none."""
    return descriptor.model_revision if descriptor.steps else ""


def migrates(pool: PoolDocument, descriptor: Descriptor) -> bool:
    """Whether the log is of another revision than the pool's, and is to be rendered anew."""
    return pool.migrates and pool.active_revision != "" and bound_revision(descriptor) not in ("", pool.active_revision)


def turned_away(pool: PoolDocument, bound: str, workers: Sequence[WorkerState]) -> Refused | None:
    """Why a step that needs a worker of revision `bound` need not wait for one; None when it may.

    A revision that the pool has turned away from does not come back.
    """
    if not workers or bound in ("", pool.active_revision) or not pool.active_revision:
        return None
    alive = [worker for worker in workers if worker.model_revision == bound]
    if not pool.migrates:
        return None if alive else wrong_revision(bound)
    if any(not worker.draining for worker in alive):
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


def announcement(descriptor: Descriptor, known: pb.Head | None) -> pb.StepMigrated | None:
    """What a client that knows this head has to hear of; None when it knows the log, or said nothing of it."""
    former = descriptor.former
    if former is None or known is None or known.generation >= descriptor.generation:
        return None
    if known.generation == 0 and Head(known.length, known.log_hash) != former.head:
        return None
    return migrated_event(descriptor)


def migrated_event(descriptor: Descriptor) -> pb.StepMigrated:
    """Tells of the session's last migration."""
    assert descriptor.former is not None, "only a session that has migrated is told of"
    return pb.StepMigrated(
        from_revision=descriptor.former.model_revision,
        to_revision=descriptor.model_revision,
        generation=descriptor.generation,
        head=head_to_proto(descriptor.head, descriptor.generation),
    )
