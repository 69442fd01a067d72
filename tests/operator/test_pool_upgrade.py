"""Upgrades of a pool: in place, held back, or by another cluster, carried out in a Kubernetes in small."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_world import INSTALLATION, SERVICE, World, by_type, pool, template, with_children
from roost_operator.plan import names
from roost_operator.plan.observed import Observed, Secrets, StoreState
from roost_operator.plan.plan import Stage, plan
from roost_operator.plan.ray_objects import parse_service
from roost_operator.plan.ray_service import Size, application_arguments, ray_service

NEW = template(image="new")
OTHER_MODEL = "dummy://qwen-tiny"


def running(upgrade: str, replicas: int = 2) -> World:
    world = World()
    world.settle(pool(replicas, upgrade=upgrade))
    return world


def ready(world: World) -> tuple[str, str]:
    condition = world.observed.pool.status["conditions"][0]
    return condition["status"], condition["reason"]


def images(world: World) -> set[str]:
    """What the pods that are there were made from."""
    return {pod.template for pod in world.observed.ray.pods}


def wanted(template: dict[str, Any], upgrade: str) -> str:
    config = ray_service(pool(template=template, upgrade=upgrade), INSTALLATION, Size(2, 2), suspend=False)["spec"]
    group = config["rayClusterConfig"]["workerGroupSpecs"][0]
    return str(group["template"]["metadata"]["annotations"][names.TEMPLATE])


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_in_place_replaces_one_pod_after_another(replicas: int) -> None:
    world = running("InPlace", replicas)
    before = [pod.name for pod in world.observed.ray.pods]
    world.settle(pool(replicas, upgrade="InPlace", template=NEW))
    assert images(world) == {wanted(NEW, "InPlace")}
    assert sorted(world.wanted_removed) == sorted(before)
    assert {pod.cluster for pod in world.observed.ray.pods} == {"c-1"}
    assert world.fewest == replicas - 1
    assert ready(world) == ("True", "AllWorkersReady")


def test_in_place_begins_with_the_worker_that_holds_least_and_lets_it_finish() -> None:
    world = running("InPlace", 3)
    loads = [9, 3, 5]
    workers = [replace(worker, tokens=n, running=2) for worker, n in zip(world.observed.workers, loads, strict=True)]
    world.observed = replace(world.observed, workers=tuple(workers))
    changed = pool(3, upgrade="InPlace", template=NEW)
    rewritten = plan(changed, INSTALLATION, world.observed)
    assert rewritten.resize is not None
    assert (rewritten.drain, rewritten.resize.remove) == (frozenset(), ())
    world.do(rewritten)
    drained = plan(changed, INSTALLATION, world.observed)
    assert (drained.drain, drained.resize) == ({workers[1].worker_id}, None)
    assert drained.status["conditions"][0]["reason"] == "Upgrading"
    world.settle(changed)
    assert world.wanted_removed[0] == workers[1].worker_id.removeprefix("w-")


def test_in_place_stops_at_a_pod_that_does_not_come_up() -> None:
    """The first new pod has no worker: no other worker is drained, and a mended template replaces that pod at once."""
    world = running("InPlace", 3)
    changed = pool(3, upgrade="InPlace", template=NEW)
    while not world.wanted_removed:
        world.do(plan(changed, INSTALLATION, world.observed))
        world.live_on()
    fresh = next(pod for pod in world.observed.ray.pods if pod.template == wanted(NEW, "InPlace"))
    bad = replace(fresh, running=False, trouble="ImagePullBackOff", message="no such image")
    others = tuple(pod for pod in world.observed.ray.pods if pod.name != fresh.name)
    workers = tuple(worker for worker in world.observed.workers if worker.address != fresh.address)
    world.observed = replace(world.observed, ray=replace(world.observed.ray, pods=(*others, bad)), workers=workers)
    stuck = plan(changed, INSTALLATION, world.observed)
    assert (stuck.drain, stuck.idle) == (frozenset(), True)
    assert stuck.status["conditions"][0]["reason"] == "ImageUnavailable"
    mended = pool(3, upgrade="InPlace", template=template(image="newer"))
    world.do(plan(mended, INSTALLATION, world.observed))
    replaced = plan(mended, INSTALLATION, world.observed)
    assert replaced.resize is not None
    assert (replaced.resize.remove, replaced.drain) == ((bad.name,), frozenset())


def test_in_place_waits_for_a_store_that_is_away() -> None:
    world = running("InPlace")
    changed = pool(2, upgrade="InPlace", template=NEW)
    world.do(plan(changed, INSTALLATION, world.observed))
    away = replace(world.observed, store=StoreState(problem="no answer"), workers=())
    assert plan(changed, INSTALLATION, away).resize is None


def test_in_place_waits_for_leases_after_the_store_came_back() -> None:
    world = running("InPlace")
    changed = pool(2, upgrade="InPlace", template=NEW)
    world.do(plan(changed, INSTALLATION, world.observed))
    back = replace(world.observed, store=replace(world.observed.store, young=True), workers=())
    for observed in (back, replace(back, workers=world.observed.workers)):
        planned = plan(changed, INSTALLATION, observed)
        assert (planned.resize, planned.drain) == (None, frozenset())
    assert planned.status["conditions"][0]["reason"] == "Upgrading"
    assert plan(changed, INSTALLATION, world.observed).drain


def test_in_place_leaves_a_changed_model_to_serve() -> None:
    world = running("InPlace")
    before = {pod.name for pod in world.observed.ray.pods}
    world.settle(pool(2, upgrade="InPlace", source=OTHER_MODEL))
    assert {pod.name for pod in world.observed.ray.pods} == before
    assert len({worker.revision for worker in world.observed.workers}) == 1
    assert world.observed.pool.status["activeRevision"] == world.observed.workers[0].revision


def test_between_equal_numbers_of_workers_the_published_revision_stays() -> None:
    world = running("InPlace")
    published = world.observed.pool.status["activeRevision"]
    for other in ("0", "z"):
        halved = (replace(world.observed.workers[0], revision=other), world.observed.workers[1])
        observed = replace(world.observed, workers=halved)
        assert plan(pool(2, upgrade="InPlace"), INSTALLATION, observed).status["activeRevision"] == published


@pytest.mark.parametrize("change", [{"template": NEW}, {"source": OTHER_MODEL}])
def test_none_holds_a_change_until_the_pool_was_suspended(change: dict[str, Any]) -> None:
    world = running("None")
    pods, workers = world.observed.ray.pods, world.observed.workers
    world.settle(pool(2, upgrade="None", **change))
    assert (world.observed.ray.pods, world.observed.workers) == (pods, workers)
    assert ready(world) == ("True", "ChangeHeld")
    world.settle(pool(3, upgrade="None", **change))
    assert len(images(world)) == 1
    assert len({worker.revision for worker in world.observed.workers}) == 1
    world.settle(pool(3, suspend=True, upgrade="None", **change))
    world.settle(pool(3, upgrade="None", **change))
    assert ready(world) == ("True", "AllWorkersReady")
    resumed = world.observed.ray.service
    assert resumed is not None
    assert resumed.arguments == application_arguments(pool(3, upgrade="None", **change))
    assert images(world) == {wanted(change.get("template", {}), "None")}


def test_none_does_not_keep_arguments_that_somebody_else_wrote() -> None:
    world = running("None")
    changed = pool(2, upgrade="None", source=OTHER_MODEL)
    world.settle(changed)
    service = world.observed.children[SERVICE]
    edited = {**service, "spec": {**service["spec"], "serveConfigV2": "applications: [{args: {worker: {}}}]"}}
    observed = with_children(world.observed, {**world.observed.children, SERVICE: edited})
    applied = next(item for item in plan(changed, INSTALLATION, observed).apply if item["kind"] == "RayService")
    given_now = parse_service(applied).arguments
    assert given_now is not None
    assert given_now["worker"]["model"]["source"] == OTHER_MODEL


@pytest.mark.parametrize("upgrade", ["NewCluster", "InPlace"])
@pytest.mark.parametrize("change", [{"template": NEW}, {"source": OTHER_MODEL}])
def test_a_change_is_under_way_from_its_first_plan_on(upgrade: str, change: dict[str, Any]) -> None:
    """Nobody is told of the new generation that all is well before KubeRay has even looked at it."""
    world = running(upgrade)
    changed = pool(2, upgrade=upgrade, **change)
    shown = by_type(plan(changed, INSTALLATION, world.observed).status["conditions"])
    assert (shown["Ready"]["reason"], shown["Progressing"]["status"]) == ("Upgrading", "True")
    world.settle(changed)
    assert ready(world) == ("True", "AllWorkersReady")


def test_another_password_of_its_own_store_makes_new_workers() -> None:
    """Pods read the Secret when they start; of the installation's store, whose password is not theirs, they hear
    nothing."""
    own = pool(2, store="mine")
    world = World()
    world.observed = replace(world.observed, secrets=Secrets(own_store_url="redis://:one@mine"))
    world.settle(own)
    elsewhere = replace(
        INSTALLATION, store_url="redis://:changed@roost-redis", worker_store_url="redis://:w@roost-redis"
    )
    assert plan(own, elsewhere, world.observed).idle
    unread = plan(own, INSTALLATION, replace(world.observed, secrets=Secrets(), store=StoreState(problem="no URL")))
    assert (unread.stage, unread.idle) == (Stage.WAIT, True)
    world.observed = replace(world.observed, secrets=Secrets(own_store_url="redis://:two@mine"))
    world.settle(own)
    assert {pod.cluster for pod in world.observed.ray.pods} == {"c-2"}
    assert world.fewest == 2


def test_a_new_cluster_takes_over_before_the_old_one_stops() -> None:
    world = running("NewCluster")
    world.settle(pool(2, upgrade="NewCluster", template=NEW))
    assert world.fewest == 2
    assert {pod.cluster for pod in world.observed.ray.pods} != {"c-1"}
    assert ready(world) == ("True", "AllWorkersReady")


@given(
    upgrades=st.lists(st.sampled_from(["NewCluster", "InPlace", "None"]), min_size=2, max_size=4),
    changes=st.lists(st.sampled_from([{}, {"template": NEW}, {"source": OTHER_MODEL}]), min_size=4, max_size=4),
    sizes=st.lists(st.integers(1, 3), min_size=4, max_size=4),
)
def test_any_sequence_of_ways_ends_well(upgrades: list[str], changes: list[dict[str, Any]], sizes: list[int]) -> None:
    world = World()
    for upgrade, change, size in zip(upgrades, changes, sizes, strict=False):
        planned = world.settle(pool(size, upgrade=upgrade, **change))
        assert planned.idle
        assert len(world.observed.workers) == size
        assert ready(world)[0] == "True"
        held = ready(world)[1] == "ChangeHeld"
        assert held <= (upgrade == "None")
        current = {wanted(change.get("template", {}), upgrade)}
        assert held or images(world) == current


def test_a_pool_is_not_shrunk_or_suspended_while_the_store_is_away() -> None:
    """Without the store nobody can be told to drain, and who drains cannot be seen."""
    world = running("NewCluster")
    away: Observed = replace(world.observed, store=StoreState(problem="no answer"), workers=())
    smaller = plan(pool(1), INSTALLATION, away)
    assert (smaller.resize, smaller.status["conditions"][0]["reason"]) == (None, "StoreUnavailable")
    stopped = plan(pool(2, suspend=True), INSTALLATION, away)
    services = [item for item in stopped.apply if item["kind"] == "RayService"]
    assert not any(service["spec"]["rayClusterConfig"]["suspend"] for service in services)
