"""Children of a pool: what a monitor is made of; those that are no longer wanted, when they go, and when not yet."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pool_world import INSTALLATION, SERVICE, World, observation, pool
from roost_operator.plan import names
from roost_operator.plan.children import pod_monitor
from roost_operator.plan.observed import Observed, RayCluster, Reference
from roost_operator.plan.plan import Stage, plan
from roost_operator.plan.ray_objects import desired_cluster

HEAD_SECRET = Reference("Secret", "p-head")
FULL = replace(INSTALLATION, pod_monitors=True, ray_store_url="redis://redis:6379")
BARE = replace(INSTALLATION, network_policies=False)
UNWANTED = {
    HEAD_SECRET,
    Reference("PodMonitor", "p-worker"),
    Reference("NetworkPolicy", "p-worker"),
    Reference("NetworkPolicy", "p-head"),
}


def full() -> Observed:
    """A pool with every child that there can be, before KubeRay makes a cluster of it."""
    world = World(replace(observation(has_finalizer=True), pod_monitors=True))
    world.do(plan(pool(), FULL, world.observed))
    return world.observed


@pytest.mark.parametrize("suspend", [False, True])
def test_what_is_no_longer_wanted_goes_and_nothing_else(suspend: bool) -> None:
    observed = full()
    assert plan(pool(suspend=suspend), FULL, observed).delete == ()
    planned = plan(pool(suspend=suspend), BARE, replace(observed, pod_monitors=False))
    assert set(planned.delete) == UNWANTED
    assert {key for key in observed.children if key not in planned.delete} == {
        Reference("RayService", "p"),
        Reference("Secret", "p-worker"),
        Reference("ServiceAccount", "p-worker"),
        Reference("PodDisruptionBudget", "p-worker"),
    }
    assert plan(pool(suspend=suspend), FULL, replace(observed, children={})).delete == ()


def test_what_goes_already_is_not_deleted_again() -> None:
    observed = full()
    going = {
        key: {**child, "metadata": {**child["metadata"], "deletionTimestamp": "now"}}
        for key, child in observed.children.items()
    }
    assert plan(pool(), BARE, replace(observed, children=going)).delete == ()


def test_the_heads_secret_stays_while_a_cluster_needs_it() -> None:
    """One that KubeRay is deleting, too: its Job that removes Ray's keys has the password from there."""
    observed = full()
    old, new = desired_cluster(observed.children[SERVICE]), RayCluster("new")
    assert (
        HEAD_SECRET not in plan(pool(), BARE, replace(observed, ray=replace(observed.ray, clusters=(new, old)))).delete
    )
    assert HEAD_SECRET in plan(pool(), BARE, replace(observed, ray=replace(observed.ray, clusters=(new,)))).delete


def test_a_pool_that_cannot_be_run_keeps_what_it_has() -> None:
    observed = full()
    planned = plan(pool(), BARE, replace(observed, ray=replace(observed.ray, installed=False)))
    assert (planned.stage, planned.delete) == (Stage.WAIT, ())


def test_a_monitor_has_the_installations_interval_or_that_of_the_prometheus() -> None:
    every = replace(INSTALLATION, pod_monitor_interval="45s")
    endpoints = [
        pod_monitor(pool(), installation)["spec"]["podMetricsEndpoints"] for installation in (every, INSTALLATION)
    ]
    assert endpoints == [[{"port": "metrics", "interval": "45s"}], [{"port": "metrics"}]]


def test_a_monitor_has_the_installations_labels_under_our_own() -> None:
    given = (("release", "prometheus"), (names.POOL_LABEL, "another"))
    monitored = replace(INSTALLATION, pod_monitors=True, pod_monitor_labels=given)
    world = World(replace(observation(has_finalizer=True), pod_monitors=True))

    def labels_of(applied: Sequence[dict[str, Any]]) -> dict[str, str]:
        (monitor,) = [child for child in applied if child["kind"] == "PodMonitor"]
        return dict(monitor["metadata"]["labels"])

    planned = plan(pool(), monitored, world.observed)
    assert labels_of(planned.apply) == {**names.labels(pool()), "release": "prometheus"}
    world.do(planned)
    assert [child for child in plan(pool(), monitored, world.observed).apply if child["kind"] == "PodMonitor"] == []
    bare = replace(monitored, pod_monitor_labels=())
    assert "release" not in labels_of(plan(pool(), bare, world.observed).apply), "one that is no longer wanted goes"
