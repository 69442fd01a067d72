"""KubeRay's objects as the planner sees them, and that it finds its group by name wherever the group stands."""

from dataclasses import replace
from typing import Any

import pytest

from pool_world import INSTALLATION, World, pool, template
from roost_operator.kubernetes.execute import _resize
from roost_operator.plan.observed import Pod, RayCluster, RayService
from roost_operator.plan.plan import plan
from roost_operator.plan.ray_objects import parse_cluster, parse_service, staying_cluster

OTHER = {"groupName": "others", "replicas": 3, "template": {}, "rayStartParams": {}}


def beside_another_group(world: World) -> World:
    """`world` whose live RayCluster has another group first, with a pod of its own."""
    assert world.cluster is not None
    groups = [OTHER, *world.cluster["spec"]["workerGroupSpecs"]]
    world.cluster = {**world.cluster, "spec": {**world.cluster["spec"], "workerGroupSpecs": groups}}
    stranger = Pod("other-1", world.cluster["metadata"]["name"], "others", address="10.9.9.9", running=True)
    ray = replace(world.observed.ray, cluster=parse_cluster(world.cluster), pods=(stranger, *world.observed.ray.pods))
    world.observed = replace(world.observed, ray=ray)
    return world


def test_groups_are_parsed_with_their_positions() -> None:
    victims = {"replicas": 2, "scaleStrategy": {"workersToDelete": ["a"]}}
    cluster = parse_cluster(
        {"metadata": {"name": "c"}, "spec": {"workerGroupSpecs": [OTHER, {"groupName": "w"} | victims]}}
    )
    group = cluster.group("w")
    assert group is not None
    assert (group.index, group.replicas, group.workers_to_delete) == (1, 2, {"a"})
    assert cluster.group("none") is None


def test_a_resize_goes_to_the_groups_own_place() -> None:
    world = World()
    world.settle(pool(1))
    resize = plan(pool(2), INSTALLATION, beside_another_group(world).observed).resize
    assert resize is not None
    assert _resize(resize) == [
        {"op": "test", "path": "/spec/workerGroupSpecs/1/groupName", "value": "workers"},
        {"op": "replace", "path": "/spec/workerGroupSpecs/1/replicas", "value": 2},
    ]


def test_pods_of_another_group_are_no_victims() -> None:
    world = World()
    world.settle(pool(2))
    shrinking = plan(pool(1), INSTALLATION, beside_another_group(world).observed)
    assert shrinking.resize is None
    assert len(shrinking.drain) == 1


def test_an_upgrade_in_place_rewrites_its_own_group_only() -> None:
    world = World()
    world.settle(pool(1, upgrade="InPlace"))
    changed = pool(1, upgrade="InPlace", template=template(image="new"))
    resize = plan(changed, INSTALLATION, beside_another_group(world).observed).resize
    assert resize is not None
    assert [*(resize.rewrite or {})] == ["/spec/headGroupSpec", "/spec/workerGroupSpecs/1/template"]


@pytest.mark.parametrize(
    ("config", "replicas", "arguments"),
    [
        ("applications: [{args: {a: 1}, deployments: [{num_replicas: 2}]}]", 2, {"a": 1}),
        ("applications: [{args: {a: 1}}]", None, {"a": 1}),
        ("applications: [{args: [], deployments: [{num_replicas: 2}]}]", 2, None),
        ("applications: [odd]", None, None),
        ("applications: []", None, None),
        ("odd: [", None, None),
        (None, None, None),
    ],
)
def test_what_serve_is_asked_for(config: Any, replicas: int | None, arguments: dict[str, Any] | None) -> None:
    service = parse_service({"metadata": {}, "spec": {"serveConfigV2": config}})
    assert (service.replicas, service.arguments) == (replicas, arguments)


def test_the_pending_cluster_is_the_one_that_stays() -> None:
    old, new = RayCluster("old"), RayCluster("new")
    service = RayService(active_cluster="old", pending_cluster="new")
    assert staying_cluster(service, (old, new)) == new
    assert staying_cluster(service, (old,)) == old
    assert staying_cluster(None, (old,)) is None
