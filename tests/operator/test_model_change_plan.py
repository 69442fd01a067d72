"""A changed model, as the operator carries it out: who still takes steps, and which revision gateways turn to."""

from dataclasses import replace

import pytest

from pool_world import INSTALLATION, observation, pool
from roost.contract.pool_document import PoolDocument
from roost_operator.api.spec import OnModelChange
from roost_operator.plan.observed import Observed, Pod, Ray, RayCluster, StoreState, Worker, WorkerGroup
from roost_operator.plan.plan import plan
from roost_operator.plan.ray_service import Size, ray_service
from roost_operator.plan.revision import active_revision, replaced_workers

OLD, NEW = "old-revision", "new-revision"


def observed(*new: str, old: str = OLD, published: str = OLD) -> Observed:
    """An old cluster of two workers, and a new one that has a worker for each revision of `new`."""
    pods = [Pod(f"old-{n}", "c-1", "workers", f"ip-old-{n}", running=True) for n in range(2)]
    pods += [Pod(f"new-{n}", "c-2", "workers", f"ip-new-{n}", running=True) for n in range(2)]
    workers = [Worker(f"w-old-{n}", f"ip-old-{n}", old) for n in range(2)]
    workers += [Worker(f"w-new-{n}", f"ip-new-{n}", revision) for n, revision in enumerate(new)]
    return replace(
        observation(has_finalizer=True),
        ray=Ray(cluster=RayCluster("c-2", groups=(WorkerGroup("workers", replicas=2),)), pods=tuple(pods)),
        workers=tuple(workers),
        store=StoreState(document=PoolDocument("n/p", active_revision=published)),
    )


OLD_WORKERS = frozenset({"w-old-0", "w-old-1"})


@pytest.mark.parametrize(
    ("what", "revision", "drain", "drain_when_refusing"),
    [
        (observed(), OLD, frozenset(), frozenset()),
        (observed(NEW), OLD, frozenset(), frozenset()),
        (observed(NEW, NEW), NEW, OLD_WORKERS, frozenset()),
        (observed(OLD, OLD), OLD, OLD_WORKERS, OLD_WORKERS),
    ],
    ids=["no new worker", "one of two", "all of another model", "all of the same model"],
)
def test_gateways_turn_when_the_new_cluster_has_its_workers(what, revision, drain, drain_when_refusing):
    assert active_revision(what, 2) == revision
    assert replaced_workers(what, 2) == drain
    assert replaced_workers(what, 2, keeps_sessions=True) == drain_when_refusing


@pytest.mark.parametrize(
    ("policy", "drain"), [(OnModelChange.MIGRATE, OLD_WORKERS), (OnModelChange.REFUSE, frozenset())]
)
def test_old_workers_go_on_for_the_sessions_that_may_not_move(policy, drain):
    wanted = pool(2)
    sessions = wanted.spec.sessions.model_copy(update={"on_model_change": policy})
    wanted = wanted.model_copy(update={"spec": wanted.spec.model_copy(update={"sessions": sessions})})
    planned = plan(wanted, INSTALLATION, observed(NEW, NEW))
    assert planned.drain == drain
    assert planned.document is not None
    assert planned.document.active_revision == NEW
    assert planned.document.migrates is (policy is OnModelChange.MIGRATE)


def test_the_old_cluster_stays_for_the_drain_time():
    service = ray_service(pool(2, drainTimeoutSeconds=77), INSTALLATION, Size(2, 2), suspend=False)
    assert service["spec"]["rayClusterDeletionDelaySeconds"] == 77
