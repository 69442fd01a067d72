"""What a changed model means for a session's next step, case by case."""

from typing import Any

import pytest

from roost.contract.heads import Head
from roost.contract.pool_document import PoolDocument
from roost.contract.reasons import Reason
from roost.store.generations import FormerLog
from roost.store.records import Descriptor, State
from roost.store.views import unknown_migration
from roost_gateway.routing.choice import WorkerState
from roost_gateway.routing.revisions import migrates, turned_away
from routing_oracle import worker_of

OLD, NEW = "rev-1", "rev-2"
FORMER = Head(9, b"f" * 16)


def pool(active: str = NEW, policy: str = "Migrate") -> PoolDocument:
    return PoolDocument.from_json("a/b", {"activeRevision": active, "sessions": {"onModelChange": policy}})


def worker(revision: str, *, draining: bool = False) -> WorkerState:
    return worker_of("w", model_revision=revision, draining=draining)


def session(**fields: Any) -> Descriptor:
    values: dict[str, Any] = dict.fromkeys(Descriptor.__slots__, "")
    values |= {"steps": 2, "model_revision": OLD, "generation": 1, "head": Head(4, b"h" * 16), "former": None}
    return Descriptor(**{**values, "state": State.ACTIVE, **fields})


@pytest.mark.parametrize(
    ("of", "descriptor", "expected"),
    [
        (pool(), session(), True),
        (pool(OLD), session(), False),
        (pool(""), session(), False),
        (pool(policy="Refuse"), session(), False),
        (pool(), session(steps=0), False),
        (pool(), session(model_revision=""), False),
    ],
)
def test_a_log_of_another_revision_migrates(of: PoolDocument, descriptor: Descriptor, expected: bool) -> None:
    assert migrates(of, descriptor) is expected


def test_a_log_without_tokens_is_of_no_revision() -> None:
    assert (session().bound_revision, session(steps=0).bound_revision) == (OLD, "")


def test_sessions_migrate_unless_the_pool_says_otherwise() -> None:
    assert PoolDocument.from_json("a/b", {}).migrates
    assert not pool(policy="Refuse").migrates


@pytest.mark.parametrize(
    ("of", "bound", "workers", "expected"),
    [
        (pool(), OLD, [], None),
        (pool(), OLD, [worker(OLD), worker(NEW)], None),
        (pool(), OLD, [worker(OLD, draining=True), worker(NEW)], Reason.WORKER_LOST),
        (pool(), OLD, [worker(NEW)], Reason.WORKER_LOST),
        (pool(), NEW, [worker(OLD)], None),
        (pool(""), OLD, [worker(NEW)], None),
        (pool(), "", [worker(NEW)], None),
        (pool(policy="Refuse"), OLD, [worker(OLD, draining=True), worker(NEW)], None),
        (pool(policy="Refuse"), OLD, [worker(NEW)], Reason.MODEL_REVISION_MISMATCH),
        (pool(policy="Refuse"), OLD, [], None),
    ],
)
def test_who_need_not_wait_for_a_worker(
    of: PoolDocument, bound: str, workers: list[WorkerState], expected: Reason | None
) -> None:
    error = turned_away(of, bound, workers)
    assert (error and error.reason) == expected


@pytest.mark.parametrize(
    ("known", "informed"),
    [
        (None, False),
        (Head(4, b"h" * 16, 2), False),
        (Head(9, b"f" * 16, 1), True),
        (Head(9, b"f" * 16), True),
        (Head(4, b"h" * 16), False),
    ],
)
def test_a_client_is_informed_of_what_it_does_not_know(known: Head | None, informed: bool) -> None:
    descriptor = session(generation=2, model_revision=NEW, former=FormerLog(FORMER, 2, OLD))
    event = unknown_migration(descriptor, known)
    assert (event is not None) is informed
    if event is not None:
        assert (event.from_revision, event.to_revision, event.generation) == (OLD, NEW, 2)
        assert (event.head, event.head.generation) == (Head(4, b"h" * 16), 2)
    assert unknown_migration(session(), known) is None
