"""What the chart makes of what is in the cluster already, told to Helm's `lookup` by a played API server."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from built_binaries import helm_or_skip
from played_api_server import PlayedApiServer

pytestmark = pytest.mark.binaries
CHART = Path(__file__).parents[2] / "charts/roost"
ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/roost-agentpools-view"
STATEFUL_SET = "/apis/apps/v1/namespaces/here/statefulsets/roost-redis"


def refusal(tmp_path: Path, objects: dict[str, dict[str, Any]], *arguments: str) -> str:
    """What the chart fails with; empty when it renders, after which Helm asks for more than is played."""
    helm = str(helm_or_skip())
    with PlayedApiServer(objects) as server:
        here = ("--namespace", "here", "--kubeconfig", str(server.kubeconfig(tmp_path / "kubeconfig")))
        command = [helm, "template", "roost", str(CHART), "--dry-run=server", *here, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "execution error at" in done.stderr or "failed to download openapi" in done.stderr, done.stderr
    return done.stderr if "execution error at" in done.stderr else ""


def redis(size: str, storage_class: str | None = None) -> dict[str, dict[str, Any]]:
    spec: dict[str, Any] = {"resources": {"requests": {"storage": size}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    claims = [{"metadata": {"name": "data"}, "spec": spec}]
    stateful_set = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "roost-redis", "namespace": "here"},
    }
    return {STATEFUL_SET: {**stateful_set, "spec": {"volumeClaimTemplates": claims}}}


@pytest.mark.parametrize(
    ("there", "wanted"), [("10Gi", "10Gi"), ("10Gi", "10240Mi"), ("1536Mi", "1.5Gi"), ("5G", "5000M"), ("7k", "7000")]
)
def test_a_volume_of_the_same_size_is_left_alone(tmp_path: Path, there: str, wanted: str) -> None:
    assert refusal(tmp_path, redis(there), "--set-string", f"redis.persistence.size={wanted}") == ""


def test_nothing_is_asked_of_a_new_installation(tmp_path: Path) -> None:
    assert refusal(tmp_path, {}) == ""


def test_a_volume_that_is_to_change_is_refused_with_the_way_to_more_room(tmp_path: Path) -> None:
    grown = refusal(tmp_path, redis("10Gi"), "--set", "redis.persistence.size=20Gi")
    assert 'redis.persistence: roost-redis is installed with size 10Gi and storageClass ""' in grown
    assert "kubectl patch pvc data-roost-redis-0 --namespace here --patch" in grown
    assert "kubectl delete statefulset roost-redis --namespace here --cascade=orphan" in grown
    assert 'storageClass "slow"' in refusal(tmp_path, redis("10Gi", "slow"), "--set", "redis.persistence.size=10Gi")
    assert refusal(tmp_path, redis("10Gi", "slow"), "--set", "redis.persistence.storageClass=slow") == ""


def installed(release: str | None, namespace: str = "here") -> dict[str, dict[str, Any]]:
    """A role that Helm made for `release`, or that kubectl made."""
    owner = {"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": namespace} if release else {}
    metadata = {"name": "roost-agentpools-view", "annotations": owner}
    return {ROLE: {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata}}


@pytest.mark.parametrize(("release", "namespace"), [("roost", "there"), ("agents", "here")])
def test_a_second_installation_is_refused(tmp_path: Path, release: str, namespace: str) -> None:
    refused = refusal(tmp_path, installed(release, namespace))
    assert f"Roost is installed already, as release {release} in namespace {namespace}" in refused


@pytest.mark.parametrize("release", ["roost", None])
def test_the_installation_itself_is_upgraded_and_what_kubectl_made_is_helms_matter(
    tmp_path: Path, release: str | None
) -> None:
    assert refusal(tmp_path, installed(release)) == ""
