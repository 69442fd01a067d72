"""The chart's NetworkPolicies and those of a pool, taken together, over the labels that pods really get."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from network_policies import Endpoint, may_reach
from roost_operator.api.loader import load_pool
from roost_operator.plan import names
from roost_operator.plan.children import network_policies
from roost_operator.plan.installation import Installation
from roost_operator.plan.pods import head_template, worker_template

ROOT = Path(__file__).parents[2]
SYSTEM, AGENTS = "roost-system", "agents"
INSTALLATION = Installation(pool_key="k" * 32)
POOL = load_pool(ROOT / "manifests/samples/pool-dummy.yaml")
OTHER = load_pool(ROOT / "manifests/samples/pool-roles.yaml")
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "manifests/roost.yaml").read_text()))


def of_the_chart(name: str) -> Endpoint:
    workload = next(item for item in OBJECTS if item["metadata"]["name"] == name and "template" in item.get("spec", {}))
    return Endpoint.of(SYSTEM, workload["spec"]["template"])


def policies() -> list[dict[str, Any]]:
    """Of the chart, and of two pools in one namespace."""
    chart = [item for item in OBJECTS if item["kind"] == "NetworkPolicy"]
    pools = [policy for pool in (POOL, OTHER) for policy in network_policies(pool, INSTALLATION)]
    return [*chart, *({**policy, "metadata": {**policy["metadata"], "namespace": AGENTS}} for policy in pools)]


KUSTOMIZED = {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/component": "kuberay-operator"}
PODS = {
    "gateway": of_the_chart("roost-gateway"),
    "operator": of_the_chart("roost-operator"),
    "redis": of_the_chart("roost-redis"),
    "worker": Endpoint.of(AGENTS, worker_template(POOL, INSTALLATION, {})),
    "head": Endpoint.of(AGENTS, head_template(POOL, INSTALLATION, {})),
    "worker of another pool": Endpoint.of(AGENTS, worker_template(OTHER, INSTALLATION, {})),
    "neighbour of the pool": Endpoint(AGENTS, {"app": "agent"}),
    "neighbour of the gateways": Endpoint(SYSTEM, {"app": "other"}),
    "gateway of something else": Endpoint("elsewhere", {"app.kubernetes.io/component": "gateway"}),
    "stranger": Endpoint("elsewhere", {"app": "other"}),
    "prometheus": Endpoint("monitoring", {"app.kubernetes.io/name": "prometheus"}),
    "kuberay": Endpoint("kuberay", {"app.kubernetes.io/name": "kuberay-operator"}),
    "kuberay by kustomize": Endpoint("ray-system", KUSTOMIZED),
    "pod of another Ray": Endpoint("elsewhere", {"app.kubernetes.io/name": "kuberay", "ray.io/node-type": "head"}),
}
WORKER, METRICS = names.WORKER_PORT, names.METRICS_PORT
GCS, DASHBOARD = names.RAY_PORTS["gcs-server"], names.RAY_PORTS["dashboard"]
REDIS, GRPC, HTTP, SCRAPED, HEALTH = 6379, 7070, 8000, 9090, 8080
WHO = {
    ("worker", WORKER): {"gateway", "head", "worker"},
    ("worker", METRICS): {"prometheus", "head", "worker"},
    ("worker", 12345): {"head", "worker"},
    ("head", GCS): {"head", "worker"},
    ("head", DASHBOARD): {"kuberay", "kuberay by kustomize", "head", "worker"},
    ("redis", REDIS): {"gateway", "operator", "worker", "head", "worker of another pool"},
    ("redis", 22): set(),
    ("gateway", GRPC): set(PODS) - {"redis"},
    ("gateway", HTTP): set(PODS) - {"redis"},
    ("gateway", SCRAPED): set(PODS) - {"redis"},
    ("gateway", HEALTH): set(),
    ("operator", SCRAPED): set(PODS) - {"redis"},
    ("operator", HEALTH): set(),
}
"""Who may reach a port; by default anybody may call gateways, with an API key, and read their metrics."""


@pytest.mark.parametrize(("server", "port"), WHO)
def test_only_those_who_must_reach_a_port_do(server: str, port: int) -> None:
    known = policies()
    admitted = {name for name, pod in PODS.items() if may_reach(known, pod, PODS[server], port)}
    assert admitted == WHO[server, port]


def test_workers_are_scraped_by_those_whom_the_installation_names() -> None:
    given = replace(
        INSTALLATION, scrapers=({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "agent"}}},)
    )
    known = [{**policy, "metadata": {"namespace": AGENTS}} for policy in network_policies(POOL, given)]
    admitted = {name for name, pod in PODS.items() if may_reach(known, pod, PODS["worker"], METRICS)}
    assert admitted == {"neighbour of the pool", "head", "worker"}


def test_every_pod_of_roost_has_a_policy() -> None:
    stranger, closed = PODS["stranger"], 1
    bare = [name for name in ("gateway", "operator", "redis", "worker", "head") if _open(stranger, PODS[name], closed)]
    assert bare == []


def _open(client: Endpoint, server: Endpoint, port: int) -> bool:
    return may_reach(policies(), client, server, port)
