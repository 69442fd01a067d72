"""The chart on a real API server and a real node: installed, tested, upgraded, uninstalled."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from roost_cluster.chart_values import chart_values, difference
from roost_cluster.cluster import Cluster
from roost_cluster.helm import Helm
from roost_cluster.volumes import static_volume
from roost_gateway.probe import probe

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/roost"
VALUES = [None, *sorted([*CHART.glob("ci/*.yaml"), *CHART.glob("values-*.yaml")])]
DRY_RUN = ("--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
"""A Roost that is there already, or a CRD that Helm left, has other field managers."""
OPTIONAL_KINDS = ("GRPCRoute", "PodMonitor")
"""Their CRDs are not in the cluster for tests."""
POOL = {
    "apiVersion": "roost.dev/v1alpha1",
    "kind": "AgentPool",
    "metadata": {"name": "small"},
    "spec": {"models": [{"name": "tiny", "source": "dummy://tiny"}]},
}


@pytest.fixture
def helm(cluster: Cluster, namespace: str) -> Helm:
    return Helm(cluster, namespace)


@pytest.fixture
def values(tmp_path: Path) -> str:
    file = tmp_path / "values.json"
    file.write_text(json.dumps(chart_values()))
    return str(file)


@pytest.fixture
def volume(cluster: Cluster, namespace: str) -> Iterator[None]:
    if cluster.layout is None:
        pytest.skip("KUBECONFIG names a cluster that has no local image")
    cluster.kubectl.apply(static_volume(namespace, "data-roost-redis-0", cluster.layout.volumes / namespace))
    yield
    cluster.kubectl.run("delete", "pv", f"{namespace}-data-roost-redis-0", "--wait=false")


@pytest.mark.parametrize("file", VALUES, ids=lambda path: path.name if path else "defaults")
def test_every_object_is_valid_to_the_api_server(cluster: Cluster, helm: Helm, namespace: str, file: Path) -> None:
    rendered = helm("template", "roost", str(CHART), *(("--values", str(file)) if file else ()))
    objects = [found for found in yaml.safe_load_all(rendered) if found and found["kind"] not in OPTIONAL_KINDS]
    assert len(objects) > 12
    cluster.kubectl.apply(*objects, arguments=DRY_RUN)


def test_the_plain_manifest_is_current_and_valid(cluster: Cluster) -> None:
    environment = {**os.environ, "ROOST_HELM": str(cluster.toolbox.path("helm"))}
    command = [sys.executable, str(ROOT / "charts/generate.py"), "--check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    objects = list(yaml.safe_load_all((ROOT / "manifests/roost.yaml").read_text()))
    for found in objects:
        found["metadata"].pop("namespace", None)  # the namespace is among what is not made in a dry run
    cluster.kubectl.apply(*objects, arguments=DRY_RUN)


def test_install_test_upgrade_and_uninstall(
    cluster: Cluster, helm: Helm, values: str, namespace: str, volume: None
) -> None:
    print("e2e values:", *difference(yaml.safe_load((CHART / "values.yaml").read_text()), chart_values()), sep="\n  ")
    kubectl, here = cluster.kubectl, ("--namespace", namespace)
    notes = helm("install", "roost", str(CHART), "--values", values)
    assert f"kubectl get secret roost-api-keys -n {namespace}" in notes
    kubectl.run("rollout", "status", "statefulset/roost-redis", "--timeout=120s", *here, seconds=130)
    kubectl.run("rollout", "status", "deployment/roost-gateway", "--timeout=120s", *here, seconds=130)
    kubectl.run("rollout", "status", "deployment/roost-operator", "--timeout=60s", *here, seconds=70)
    assert set(gateways(cluster, namespace).values()) == {"NOT_SERVING"}, "there is no worker yet"
    assert "Succeeded" in helm("test", "roost")
    drawn = secrets_of(cluster, namespace)
    assert set(drawn) == {"roost-api-keys", "roost-pool-key", "roost-store"}

    helm("upgrade", "roost", str(CHART), "--values", values, "--set", "gateway.drainSeconds=5")
    kubectl.run("rollout", "status", "deployment/roost-gateway", "--timeout=120s", *here, seconds=130)
    assert secrets_of(cluster, namespace) == drawn

    kubectl.apply(POOL, arguments=here)
    refused = helm("uninstall", "roost", fails=True)
    assert kubectl.get("deployment", "roost-gateway", *here)["spec"]["replicas"] >= 1
    assert f"pools still exist: {namespace}/small" in refused
    assert f"to keep it: helm rollback roost 2 --namespace {namespace}" in refused
    helm("rollback", "roost", "2")
    helm("upgrade", "roost", str(CHART), "--reuse-values")
    kubectl.run("delete", "agentpool", "small", *here)
    helm("uninstall", "roost")
    left = kubectl.run("get", "all,secret,configmap,pvc,sa,role,rolebinding,networkpolicy,pdb,hpa", "-o", "name", *here)
    gone = {"secret/roost-api-keys", "secret/roost-pool-key", "secret/roost-store"}
    kept = gone | {"persistentvolumeclaim/data-roost-redis-0", "configmap/kube-root-ca.crt", "serviceaccount/default"}
    assert {name for name in left.split() if not name.startswith("pod/")} == kept
    assert kubectl.succeeds("get", "crd", "agentpools.roost.dev")
    kubectl.run("delete", "pvc", "data-roost-redis-0", *here)
    kubectl.run("delete", "crd", "agentpools.roost.dev")


def gateways(cluster: Cluster, namespace: str) -> dict[str, str]:
    """Health by address of each gateway pod, asked from the host."""
    label = "--selector=app.kubernetes.io/component=gateway"
    pods: list[dict[str, Any]] = cluster.kubectl.get("pods", label, "--namespace", namespace)["items"]
    addresses = [pod["status"]["podIP"] for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    return {address: asyncio.run(probe(address, 7070))[address] for address in addresses}


def secrets_of(cluster: Cluster, namespace: str) -> dict[str, dict[str, bytes]]:
    """What is in the Secrets that the installation drew."""
    found = cluster.kubectl.get("secrets", "--selector=app.kubernetes.io/part-of=roost", "--namespace", namespace)
    return {
        item["metadata"]["name"]: {name: base64.b64decode(value) for name, value in item["data"].items()}
        for item in found["items"]
    }
