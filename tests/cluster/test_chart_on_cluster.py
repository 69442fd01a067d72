"""Every object of the chart is valid to a real API server, whatever the values. Its installation is in
`test_pool_installation.py` and `test_pool_removal.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from roost_cluster.cluster import Cluster
from roost_cluster.helm import Helm

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/roost"
VALUES = [None, *sorted([*CHART.glob("ci/*.yaml"), *CHART.glob("values-*.yaml")])]
DRY_RUN = ("--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
"""A Roost that is there already, or a CRD that Helm left, has other field managers."""
OPTIONAL_KINDS = ("GRPCRoute", "HTTPRoute", "PodMonitor")
"""Their CRDs are not in the cluster for tests."""


@pytest.fixture
def helm(cluster: Cluster, namespace: str) -> Helm:
    return Helm(cluster, namespace)


@pytest.mark.parametrize("file", VALUES, ids=lambda path: path.name if path else "defaults")
def test_every_object_is_valid_to_the_api_server(cluster: Cluster, helm: Helm, namespace: str, file: Path) -> None:
    rendered = helm("template", "roost", str(CHART), *(("--values", str(file)) if file else ()))
    objects = [each for each in yaml.safe_load_all(rendered) if each and each["kind"] not in OPTIONAL_KINDS]
    assert len(objects) > 12
    cluster.kubectl.apply(*objects, arguments=DRY_RUN)


def test_the_plain_manifest_is_current_and_valid(cluster: Cluster) -> None:
    environment = {**os.environ, "ROOST_HELM": str(cluster.toolbox.path("helm"))}
    command = [sys.executable, str(ROOT / "charts/generate.py"), "--check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    objects = list(yaml.safe_load_all((ROOT / "manifests/roost.yaml").read_text()))
    for each in objects:
        each["metadata"].pop("namespace", None)  # the namespace is among what is not made in a dry run
    cluster.kubectl.apply(*objects, arguments=DRY_RUN)
