"""The plan of a pool: tables for its parts, and a world in which plans are carried out until nothing is left to do."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_world import INSTALLATION, World, by_type, observation, pool, with_children
from roost_operator.plan import names
from roost_operator.plan.conditions import Facts, conditions
from roost_operator.plan.difference import contains, reference
from roost_operator.plan.observed import (
    Observed,
    Pod,
    Ray,
    RayCluster,
    Reference,
    Secrets,
    StoreState,
    Worker,
    WorkerGroup,
)
from roost_operator.plan.plan import Stage, plan
from roost_operator.plan.ray_service import Size
from roost_operator.plan.scaling import scale

DRAIN_SECONDS = 10.0


def test_contains_sees_edits_and_ignores_what_others_add() -> None:
    assert contains({"a": [{"b": 1, "c": 2}], "d": 3}, {"a": [{"b": 1}], "e": {}})
    assert not contains({"a": [{"b": 2}]}, {"a": [{"b": 1}]})
    assert not contains({"a": [{"b": 1}, {}]}, {"a": [{"b": 1}]})
    assert not contains({"a": True}, {"a": 1})


def lease(name: str, **more: Any) -> Worker:
    return Worker(worker_id=f"w-{name}", address=f"ip-{name}", revision="r", **more)


def present(*names_: str, **more: Any) -> tuple[Pod, ...]:
    return tuple(Pod(name, "c", "workers", address=f"ip-{name}", running=True, **more) for name in names_)


def sighted(pods: tuple[Pod, ...], *workers: Worker, named: str = "", failure: str | None = None) -> Observed:
    """A RayCluster with `pods`. KubeRay was asked to delete the pod `named`; `failure` keeps it from creating pods."""
    group = WorkerGroup("workers", workers_to_delete=frozenset({named} if named else ()))
    ray = Ray(cluster=RayCluster("c", groups=(group,), pod_failure=failure), pods=pods)
    return replace(observation(), ray=ray, workers=workers)


IDLE = {"draining": True, "drain_seconds": 1.0}
SCALES: dict[str, tuple[tuple[int, int | None, int | None, Observed], tuple[int, int, set[str], tuple[str, ...]]]] = {
    "nothing yet": ((2, None, None, sighted(())), (2, 2, set(), ())),
    "grows: pods first": ((2, 1, 1, sighted(present("a"))), (2, 1, set(), ())),
    "grows: then replicas": ((2, 2, 1, sighted(present("a", "b"))), (2, 2, set(), ())),
    "shrinks: the cheapest drains": (
        (1, 2, 2, sighted(present("a", "b"), lease("a", tokens=9), lease("b", tokens=5))),
        (2, 2, {"w-b"}, ()),
    ),
    "shrinks: a victim stays the victim": (
        (1, 2, 2, sighted(present("a", "b"), lease("a", tokens=9, drain_seconds=1.0, running=1), lease("b"))),
        (2, 2, {"w-a"}, ()),
    ),
    "shrinks: an idle victim goes": (
        (1, 2, 2, sighted(present("a", "b"), lease("a", **IDLE), lease("b"))),
        (1, 2, {"w-a"}, ("a",)),
    ),
    "shrinks: out of time": (
        (1, 2, 2, sighted(present("a", "b"), lease("a", running=3, drain_seconds=10.0), lease("b"))),
        (1, 2, {"w-a"}, ("a",)),
    ),
    "shrinks: one without a worker goes at once": (
        (1, 2, 2, sighted(present("a", "b"), lease("a"))),
        (1, 2, set(), ("b",)),
    ),
    "shrinks: the victim is still there": (
        (1, 1, 2, sighted(present("a", "b"), lease("a", **IDLE), lease("b"))),
        (1, 2, {"w-a"}, ()),
    ),
    "shrinks: the victim is leaving": (
        (1, 1, 2, sighted((*present("a"), *present("b", deleting=True)))),
        (1, 2, set(), ()),
    ),
    "shrinks: the victim is gone": ((1, 1, 2, sighted(present("a"))), (1, 1, set(), ())),
    "shrinks: a pod that somebody deletes is the victim": (
        (1, 2, 2, sighted((*present("b"), *present("a", deleting=True)), lease("a", running=2), lease("b"))),
        (1, 2, {"w-a"}, ("a",)),
    ),
    "shrinks: one that was named is not counted again": (
        (1, 2, 3, sighted(present("a", "b", "c"), lease("a", **IDLE), lease("b", **IDLE), lease("c"), named="a")),
        (1, 3, {"w-a", "w-b"}, ("a", "b")),
    ),
    "shrinks: a pod that died comes back first": (
        (1, 3, 3, sighted(present("a", "b"), lease("a", drain_seconds=1.0), lease("b"))),
        (3, 3, {"w-a"}, ()),
    ),
    "shrinks: one that is renewed comes back first": (
        (1, 2, 2, sighted((*present("b"), *present("a", deleting=True)), lease("b"), named="a")),
        (2, 2, set(), ()),
    ),
    "shrinks: as long as there is none they need not come": ((1, 3, 3, sighted(())), (1, 3, set(), ())),
    "shrinks: one that cannot be made need not come": (
        (1, 3, 3, sighted(present("a", "b"), lease("a"), lease("b"), failure="over quota")),
        (2, 3, set(), ()),
    ),
}


@pytest.mark.parametrize("name", SCALES)
def test_scaling(name: str) -> None:
    (wanted, pods_now, replicas_now, observed), (pods, replicas, drain, remove) = SCALES[name]
    group = observed.ray.group("workers")
    assert group is not None
    live = None if pods_now is None else replace(group, replicas=pods_now)
    planned = scale(wanted, live, replicas_now, observed, DRAIN_SECONDS)
    assert (planned.size, planned.drain, planned.remove) == (Size(pods, replicas), drain, remove)


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = conditions(Facts(1, 0), [], 1, 0.0)
    same = conditions(Facts(1, 0, image="x"), first, 2, 60.0)
    changed = conditions(Facts(1, 1), same, 2, 120.0)
    times = [status_conditions[0]["lastTransitionTime"] for status_conditions in (first, same, changed)]
    assert times == ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1970-01-01T00:02:00Z"]


def test_a_pool_lives_from_start_to_end() -> None:
    world = World()
    world.settle(pool(2))
    assert (len(world.observed.workers), world.observed.pool.status["workers"]) == (
        2,
        {"desired": 2, "ready": 2, "replicas": 2},
    )
    starting = plan(pool(2), INSTALLATION, replace(world.observed, workers=world.observed.workers[:1]))
    assert starting.status["workers"] == {"desired": 2, "ready": 1, "replicas": 2}, "what an autoscaler counts"
    busy = tuple(replace(worker, running=2, tokens=9 - i) for i, worker in enumerate(world.observed.workers))
    world.observed = replace(world.observed, workers=busy)
    world.settle(pool(1))
    assert world.wanted_removed == ["pod-2"]
    assert world.settle(pool(1, suspend=True)).stage is Stage.SUSPEND
    assert (world.observed.ray.pods, world.observed.pool.status["conditions"][0]["reason"]) == ((), "Suspended")
    world.settle(pool(3))
    assert len(world.observed.workers) == 3
    world.observed = deleted(world.observed)
    stages = []
    for _ in range(20):
        planned = plan(pool(3), INSTALLATION, world.observed)
        stages.append(planned.stage)
        world.do(planned)
        world.live_on()
        if planned.stage is Stage.FORGET:
            break
    assert list(dict.fromkeys(stages)) == [Stage.DRAIN, Stage.REMOVE, Stage.FORGET]
    assert planned.stage is Stage.FORGET
    assert planned.withdraw


def test_a_pod_that_somebody_deletes_goes_on_draining() -> None:
    world = World()
    world.settle(pool(2))
    pods = tuple(replace(pod, deleting=pod.name == "pod-1") for pod in world.observed.ray.pods)
    ray = replace(world.observed.ray, pods=pods)
    asked_workers = tuple(replace(worker, drain_seconds=1.0) for worker in world.observed.workers)
    planned = plan(pool(2), INSTALLATION, replace(world.observed, ray=ray, workers=asked_workers))
    assert planned.drain == {"w-pod-1"}


def test_a_deletion_does_not_wait_for_a_store_for_ever() -> None:
    away = StoreState(problem="no answer")
    observed = replace(observation(deleted_at=990.0, has_finalizer=True), now=1000.0, store=away)
    assert plan(pool(), INSTALLATION, observed).stage is not Stage.FORGET
    late = plan(pool(), INSTALLATION, replace(observed, now=1100.0))
    assert (late.stage, late.withdraw, late.events[0].reason) == (Stage.FORGET, False, "StoreLeftAlone")


def test_a_deletion_leaves_running_workers_alone_while_the_store_is_away() -> None:
    """Nobody can be told to drain, nor be seen to have done so: the drain time and what is added to it pass first."""
    world = World()
    world.settle(pool(2))
    since = world.observed.now
    away = replace(deleted(world.observed), store=StoreState(problem="no answer"), workers=())
    for waited in (0.0, 10.0, 40.0):
        planned = plan(pool(2), INSTALLATION, replace(away, now=since + waited))
        assert (planned.stage, planned.delete, planned.drain) == (Stage.WAIT, (), frozenset()), waited
        assert planned.status["conditions"][0]["reason"] == "Deleting"
    late = plan(pool(2), INSTALLATION, replace(away, now=since + 41.0))
    assert (late.stage, [child.kind for child in late.delete]) == (Stage.REMOVE, ["RayService"])


def deleted(observed: Observed) -> Observed:
    """Its deletion is requested now."""
    return replace(observed, pool=replace(observed.pool, deleted_at=observed.now))


def just_back(world: World, *workers: Worker) -> Observed:
    """The store answers again, and only these have renewed their leases yet."""
    return replace(world.observed, store=replace(world.observed.store, young=True), workers=workers)


@pytest.mark.parametrize("first", [0, 1])
def test_who_has_no_lease_yet_is_not_gone_when_the_store_has_just_come_back(first: int) -> None:
    world = World()
    world.settle(pool(2))
    back = just_back(world, *world.observed.workers[:first])
    going = plan(pool(2), INSTALLATION, deleted(back))
    assert (going.stage, going.delete, len(going.drain)) == (Stage.DRAIN, (), first)
    suspended = plan(pool(2, suspend=True), INSTALLATION, back)
    assert (suspended.stage, len(suspended.drain)) == (Stage.DRAIN, first)
    smaller = plan(pool(1), INSTALLATION, back)
    assert (smaller.resize, smaller.drain) == (None, frozenset())
    assert smaller.status["conditions"][0]["reason"] == "Scaling"
    same = plan(pool(2), INSTALLATION, back)
    assert (same.idle, same.status["conditions"][0]["reason"]) == (True, "WorkersStarting")


def test_a_victim_stays_the_victim_when_the_store_comes_back() -> None:
    world = World()
    world.settle(pool(2))
    world.do(plan(pool(1), INSTALLATION, world.observed))
    asked_workers = tuple(worker for worker in world.observed.workers if worker.drain_seconds is not None)
    assert plan(pool(1), INSTALLATION, just_back(world, *asked_workers)).drain == {asked_workers[0].worker_id}


def test_a_new_pool_needs_no_store_that_has_run_for_a_while() -> None:
    """As in the first seconds of an installation."""
    observed = replace(observation(has_finalizer=True), store=StoreState(young=True))
    planned = plan(pool(2), INSTALLATION, observed)
    assert (planned.stage, "RayService" in {document["kind"] for document in planned.apply}) == (Stage.RUN, True)
    gone = plan(pool(2), INSTALLATION, deleted(observed))
    assert gone.stage is Stage.FORGET


BROKEN = {"spec": {"terminationGracePeriodSeconds": 1}}


@pytest.mark.parametrize("trouble", ["template", "secret"])
def test_a_pool_that_cannot_be_run_can_still_be_suspended(trouble: str) -> None:
    world = World()
    world.settle(pool(2))
    missing = ("Secret hub",) if trouble == "secret" else ()
    world.observed = replace(world.observed, secrets=Secrets(missing))
    wanted = pool(2, suspend=True, **({"template": BROKEN} if trouble == "template" else {}))
    first = plan(wanted, INSTALLATION, world.observed)
    assert (first.stage, len(first.drain), first.apply) == (Stage.DRAIN, 2, ())
    assert first.document is not None
    assert first.document.suspend
    assert world.settle(wanted).stage is Stage.SUSPEND
    assert (world.observed.ray.pods, world.observed.workers) == ((), ())
    assert world.observed.pool.status["conditions"][0]["reason"] in ("InvalidTemplate", "SecretMissing")
    world.observed = replace(world.observed, secrets=Secrets())
    world.settle(pool(2))
    assert len(world.observed.workers) == 2


@pytest.mark.parametrize("store", [StoreState(problem="no answer"), StoreState(young=True), StoreState()])
def test_a_pool_that_is_made_suspended_starts_nothing(store: StoreState) -> None:
    planned = plan(pool(2, suspend=True), INSTALLATION, replace(observation(has_finalizer=True), store=store))
    (service,) = (document for document in planned.apply if document["kind"] == "RayService")
    assert (planned.stage, service["spec"]["rayClusterConfig"]["suspend"]) == (Stage.SUSPEND, True)


def test_what_drains_goes_on_while_a_pool_cannot_be_run() -> None:
    world = World()
    world.settle(pool(2))
    world.do(plan(pool(1), INSTALLATION, world.observed))
    draining = {worker.worker_id for worker in world.observed.workers if worker.drain_seconds is not None}
    planned = plan(pool(1, template=BROKEN), INSTALLATION, world.observed)
    assert (planned.stage, planned.drain) == (Stage.WAIT, draining)


def test_a_pool_that_cannot_be_read_is_left_as_it_is_and_says_so() -> None:
    world = World()
    world.settle(pool(2))
    world.do(plan(pool(1), INSTALLATION, world.observed))
    draining = {worker.worker_id for worker in world.observed.workers if worker.drain_seconds is not None}
    unreadable = replace(world.observed.pool, unreadable="spec.models[0].kvCache: odd")
    planned = plan(pool(2), INSTALLATION, replace(world.observed, pool=unreadable))
    assert (planned.stage, planned.idle, planned.document, planned.drain) == (Stage.WAIT, True, None, draining)
    shown = by_type(planned.status["conditions"])
    assert (shown["Ready"]["reason"], shown["Degraded"]["status"]) == ("InvalidSpec", "True")
    assert shown["Ready"]["message"].startswith("spec.models[0].kvCache: odd; ")


def test_a_pool_that_cannot_be_read_can_be_deleted() -> None:
    world = World()
    world.settle(pool(2))
    published = world.observed.store.document
    unreadable = replace(world.observed.pool, unreadable="odd")
    world.observed = deleted(replace(world.observed, pool=unreadable))
    planned = plan(pool(2, source="dummy://unreadable"), INSTALLATION, world.observed)
    assert published is not None
    assert (planned.stage, planned.document) == (Stage.DRAIN, replace(published, suspend=True))
    stages = [planned.stage]
    while stages[-1] is not Stage.FORGET and len(stages) < 20:
        world.do(planned)
        world.live_on()
        planned = plan(pool(2, source="dummy://unreadable"), INSTALLATION, world.observed)
        stages.append(planned.stage)
    assert list(dict.fromkeys(stages)) == [Stage.DRAIN, Stage.REMOVE, Stage.FORGET]


@st.composite
def states(draw: st.DrawFn) -> World:
    """Any state that a pool of another size may have been left in, with children missing or edited."""
    world = World()
    world.settle(pool(draw(st.integers(1, 4))))
    kept = {key: child for key, child in world.observed.children.items() if draw(st.booleans())}
    workers = [
        replace(
            worker,
            running=draw(st.integers(0, 3)),
            tokens=draw(st.integers(0, 99)),
            drain_seconds=draw(st.sampled_from([None, 0.0, 99.0])),
        )
        for worker in world.observed.workers
        if draw(st.booleans())
    ]
    pods = tuple(replace(pod, deleting=draw(st.booleans())) for pod in world.observed.ray.pods if draw(st.booleans()))
    observed = with_children(world.observed, kept)
    ray, stored = replace(observed.ray, pods=pods), replace(observed.pool, has_finalizer=draw(st.booleans()))
    world.observed = replace(observed, ray=ray, pool=stored, workers=tuple(workers))
    return world


@given(world=states(), wanted=st.integers(1, 4), suspend=st.booleans())
def test_any_state_converges_and_then_nothing_changes(world: World, wanted: int, suspend: bool) -> None:
    planned = world.settle(pool(wanted, suspend=suspend))
    assert planned.idle
    assert world.chosen_by_kuberay == 0
    assert len(world.observed.workers) == (0 if suspend else wanted)
    assert {key.kind for key in world.observed.children} >= {"RayService", "Secret", "ServiceAccount"}
    again = plan(pool(wanted, suspend=suspend), INSTALLATION, world.observed)
    assert (again.idle, again.document, again.events) == (True, None, ())


def test_an_edited_child_is_applied_again() -> None:
    world = World()
    world.settle(pool())
    key = Reference("PodDisruptionBudget", "p-worker")
    edited = {**world.observed.children[key], "spec": {"minAvailable": 7}}
    world.observed = with_children(world.observed, {**world.observed.children, key: edited})
    planned = plan(pool(), INSTALLATION, world.observed)
    assert [reference(child) for child in planned.apply] == [key]
    assert names.APPLIED in planned.apply[0]["metadata"]["annotations"]
