"""Ray's token: one per pool, required by whole clusters only, and left out where KubeRay has no field for it."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from pool_world import INSTALLATION, SERVICE, World, observation, pool, template
from redis_servers import RedisServer
from roost_operator.kubernetes import kinds
from roost_operator.kubernetes.api import ApiError, Document
from roost_operator.kubernetes.execute import ChildRefusedError
from roost_operator.kubernetes.kinds import Kind
from roost_operator.kubernetes.reconciler import Reconciler
from roost_operator.plan import names
from roost_operator.plan.difference import reference
from roost_operator.plan.observed import Reference, Secrets

SECRET = Reference("Secret", "p-worker")
AUTH = {"mode": "token", "secretName": "p-worker"}


def world(*, token_auth: bool = True) -> World:
    """A pool beside a KubeRay that has, or has not, a field for a token."""
    before = observation()
    return World(replace(before, ray=replace(before.ray, token_auth=token_auth)))


def updated(before: World) -> World:
    """`before` after KubeRay was updated to a version that has the field."""
    before.observed = replace(before.observed, ray=replace(before.observed.ray, token_auth=True))
    return before


def auth(settled: World) -> Any:
    """`authOptions` of the RayService and of its live RayCluster, which agree."""
    assert settled.cluster is not None
    options = settled.cluster["spec"].get("authOptions")
    assert settled.observed.children[SERVICE]["spec"]["rayClusterConfig"].get("authOptions") == options
    return options


def token_in(secret: Document) -> str:
    return base64.b64decode(secret["data"].get(names.TOKEN_KEY, "")).decode()


def test_a_ray_cluster_requires_the_token_in_its_pools_secret() -> None:
    settled = world()
    settled.settle(pool())
    assert auth(settled) == AUTH
    secret = settled.observed.children[SECRET]
    assert len(token_in(secret)) == 64
    other = world()
    other.settle(pool())
    assert other.observed.children[SECRET] == secret, "a Secret that was deleted comes back as it was"


def test_without_a_field_for_it_there_is_no_token() -> None:
    settled = world(token_auth=False)
    settled.settle(pool())
    assert auth(settled) is None
    assert names.TOKEN_KEY not in settled.observed.children[SECRET]["data"]


def test_a_new_cluster_takes_over_when_kuberay_has_the_field() -> None:
    settled = world(token_auth=False)
    settled.settle(pool())
    updated(settled).settle(pool())
    assert auth(settled) == AUTH
    assert settled.clusters == 2


def test_the_token_in_the_secret_outlives_the_key_that_it_was_derived_from() -> None:
    settled = world()
    settled.observed = replace(settled.observed, secrets=Secrets(ray_token="of-an-older-key"))
    settled.settle(pool())
    assert token_in(settled.observed.children[SECRET]) == "of-an-older-key"


@pytest.mark.parametrize("upgrade", ["InPlace", "None"])
def test_a_cluster_that_is_not_replaced_as_a_whole_requires_it_after_a_suspension(upgrade: str) -> None:
    settled = world(token_auth=False)
    settled.settle(pool(upgrade=upgrade))
    updated(settled).settle(pool(upgrade=upgrade, template=template(image="new")))
    assert auth(settled) is None
    settled.settle(pool(upgrade=upgrade, suspend=True))
    settled.settle(pool(upgrade=upgrade))
    assert auth(settled) == AUTH
    settled.settle(pool(upgrade=upgrade, template=template(image="newer")))
    assert auth(settled) == AUTH


class Cluster:
    """An API server with one pool; with `old_kuberay` it answers as one of Kubernetes 1.36 with KubeRay 1.5.1."""

    def __init__(self, *, old_kuberay: bool, refusal: str = "") -> None:
        metadata = {"name": "p", "namespace": "default", "uid": "u", "generation": 1, "finalizers": [names.FINALIZER]}
        spec = {"models": [{"name": "m", "source": "dummy://llama-tiny", "contextTokens": 512}]}
        document = {"apiVersion": "roost.dev/v1alpha1", "kind": "AgentPool", "metadata": metadata, "spec": spec}
        self.old_kuberay, self.writes = old_kuberay, 0
        self.refusal = refusal
        self.objects: dict[Reference, Document] = {Reference("AgentPool", "p"): document}

    def guard(self) -> None:
        """Allows every write."""

    async def knows(self, kind: Kind) -> bool:
        return kind is not kinds.MONITOR

    async def get(self, kind: Kind, namespace: str, name: str) -> Document | None:
        return self.objects.get(Reference(kind.kind, name))

    async def of_pool(self, kind: Kind, namespace: str, pool: str, component: str = "") -> list[Document]:
        return []

    async def apply(self, kind: Kind, body: Document) -> Document:
        config = body["spec"]["rayClusterConfig"] if kind is kinds.SERVICE else {}
        if self.old_kuberay and "authOptions" in config:
            raise ApiError(
                500,
                "failed to create typed patch object (default/p; ray.io/v1, Kind=RayService): "
                ".spec.rayClusterConfig.authOptions.secretName: field not declared in schema",
            )
        if self.refusal and kind is kinds.SERVICE:
            raise ApiError(422, self.refusal)
        self.writes += 1
        self.objects[reference(body)] = body
        return body

    async def patch(self, kind: Kind, namespace: str, name: str, body: Document, **_: str) -> Document:
        self.writes += 1
        self.objects[Reference(kind.kind, name)].update(body)
        return body

    async def create(self, kind: Kind, namespace: str, body: Document) -> Document:
        return body


@pytest.mark.parametrize("old_kuberay", [False, True])
async def test_a_token_is_left_out_for_an_older_kuberay(redis_server: RedisServer, old_kuberay: bool) -> None:
    cluster = Cluster(old_kuberay=old_kuberay)
    reconciler = Reconciler(cluster, replace(INSTALLATION, store_url=redis_server.url))
    try:
        planned = await reconciler.reconcile("default", "p")
        assert planned is not None
        secret, service = cluster.objects[SECRET], cluster.objects[SERVICE]
        writes = cluster.writes
        await reconciler.reconcile("default", "p")
        assert cluster.writes == writes
    finally:
        await reconciler.aclose()
    assert service["spec"]["rayClusterConfig"].get("authOptions") == (None if old_kuberay else AUTH)
    assert len(token_in(secret)) == (0 if old_kuberay else 64)
    assert cluster.objects[SECRET] is secret


async def test_another_refusal_of_the_field_takes_the_token_from_nobody(redis_server: RedisServer) -> None:
    cluster = Cluster(old_kuberay=False, refusal=".spec.rayClusterConfig.authOptions.secretName: expected string")
    reconciler = Reconciler(cluster, replace(INSTALLATION, store_url=redis_server.url))
    try:
        with pytest.raises(ChildRefusedError):
            await reconciler.reconcile("default", "p")
        cluster.refusal = ""
        await reconciler.reconcile("default", "p")
    finally:
        await reconciler.aclose()
    assert cluster.objects[SERVICE]["spec"]["rayClusterConfig"]["authOptions"] == AUTH


def test_the_token_itself_is_not_in_the_ray_service() -> None:
    """Whoever may read a RayService may not have it."""
    settled = world()
    settled.settle(pool())
    assert token_in(settled.observed.children[SECRET]) not in str(settled.observed.children[SERVICE])
