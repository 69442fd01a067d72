"""Ray's head keeps its state in Redis: the objects that say so, and a real Ray that does, as its own user."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from pool_world import INSTALLATION, World, observation, pool
from roost_operator.api.spec import AgentPool
from roost_operator.kubernetes.settings import SettingsError, settings_from
from roost_operator.plan.head_state import DELETION_SECONDS, HeadState, parsed
from roost_operator.plan.observed import Secrets
from roost_operator.plan.plan import plan

URL = "rediss://ray:p%40ss@redis.roost:6380/0"
STATE = HeadState("rediss://redis.roost:6380", "ray", "p@ss")
KEPT = replace(INSTALLATION, ray_store_url=URL)


def children(wanted: AgentPool, own: str = "", installation: Any = KEPT) -> dict[str, Any]:
    """What a new pool is made of, by kind and name."""
    sessions = "redis://mine" if wanted.spec.store.url_secret_ref else ""
    secrets = Secrets(own_store_url=sessions, ray_store_url=own)
    observed = replace(observation(has_finalizer=True), secrets=secrets)
    applied = plan(wanted, installation, observed).apply
    return {f"{child['kind']}/{child['metadata']['name']}": child for child in applied}


def with_own_store() -> AgentPool:
    return pool(store="mine")


@pytest.mark.parametrize(
    ("url", "state"),
    [
        (URL, STATE),
        ("redis://redis", HeadState("redis://redis:6379")),
        ("redis://:only@[::1]:7", HeadState("redis://[::1]:7", "", "only")),
        ("redis://a:7000?cluster=true", None),
        ("unix:///tmp/redis.sock", None),
        ("redis://a:port", None),
    ],
)
def test_urls(url: str, state: HeadState | None) -> None:
    assert parsed(url) == state


def test_the_head_is_told_by_a_secret_of_its_own() -> None:
    objects = children(pool())
    service, secret = objects["RayService/p"], objects["Secret/p-head"]
    options = service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    reference = {"name": "p-head", "key": "ray-password"}
    assert options["redisAddress"] == "rediss://redis.roost:6380"
    assert options["redisPassword"] == {"valueFrom": {"secretKeyRef": reference}}
    assert {name: base64.b64decode(value).decode() for name, value in secret["data"].items()} == {
        "ray-username": "ray",
        "ray-password": "p@ss",
    }
    assert "p@ss" not in str(service)
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {"name": "RAY_num_redis_request_retries", "value": "60"} in head["env"]
    assert "ray-password" not in objects["Secret/p-worker"]["data"]


def test_clusters_of_an_upgrade_have_keys_of_their_own() -> None:
    """KubeRay takes the RayCluster's uid where no namespace is given; one in the RayService would be both clusters'."""
    service = children(pool())["RayService/p"]
    assert "externalStorageNamespace" not in service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    annotations = service["metadata"]["annotations"]
    assert annotations["ray.io/gcs-ft-deletion-timeout"] == str(DELETION_SECONDS)
    assert "roost.dev/applied" in annotations


def test_without_a_url_the_head_keeps_its_state_in_memory() -> None:
    objects = children(pool(), installation=INSTALLATION)
    assert "Secret/p-head" not in objects
    assert "gcsFaultToleranceOptions" not in objects["RayService/p"]["spec"]["rayClusterConfig"]


def test_a_pool_with_its_own_store_never_uses_that_of_the_installation() -> None:
    assert "Secret/p-head" not in children(with_own_store())
    objects = children(with_own_store(), own="redis://u:own@mine:6379")
    assert objects["RayService/p"]["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisAddress"] == (
        "redis://mine:6379"
    )


def test_another_password_makes_new_pods() -> None:
    """Pods read it when they start."""
    world = World()
    world.settle(pool())
    other = plan(pool(), KEPT, world.observed)
    rotated = plan(pool(), replace(KEPT, ray_store_url=URL.replace("p%40ss", "new")), world.observed)
    heads = [
        next(item for item in planned.apply if item["kind"] == "RayService")["spec"]["rayClusterConfig"][
            "headGroupSpec"
        ]
        for planned in (other, rotated)
    ]
    assert heads[0] != heads[1]


def test_a_url_that_ray_cannot_use_is_refused_at_start() -> None:
    environment = {"ROOST_POOL_KEY": "k", "ROOST_RAY_STORE_URL": "redis://a?cluster=true"}
    with pytest.raises(SettingsError, match="ROOST_RAY_STORE_URL is not a URL for Ray; write redis://user"):
        settings_from(environment)
    environment["ROOST_RAY_STORE_URL"] = URL
    assert settings_from(environment).installation.ray_store_url == URL
