"""A pool's children apart from its RayService: account, secret, network policies, disruption budget, monitor. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from roost.contract.pool_secret import pool_secret
from roost_operator.api.spec import AgentPool
from roost_operator.plan import names
from roost_operator.plan.installation import Installation, pods_anywhere

Manifest = dict[str, Any]
KUBERAY = (
    {"app.kubernetes.io/name": "kuberay-operator"},
    {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/component": "kuberay-operator"},
)
"""Labels of KubeRay's operator: of its chart, and of its kustomization, whose name alone would match all Ray pods."""


def service_account(pool: AgentPool) -> Manifest:
    """The pods' account, without rights and without a token."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": names.account(pool)},
        "automountServiceAccountToken": False,
    }


def worker_secret(pool: AgentPool, installation: Installation, ray_token: str) -> Manifest:
    """What workers need: the pool's secret, the URL of the store that takes their leases, and Ray's token if any."""
    data = {names.SECRET_KEY: pool_secret(installation.pool_key, pool.pool)}
    if ray_token:
        data[names.TOKEN_KEY] = ray_token
    if pool.spec.store.url_secret_ref is None:
        data[names.STORE_KEY] = installation.worker_store_url or installation.store_url
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": names.secret(pool)},
        "type": "Opaque",
        "data": {name: names.base64_of(value) for name, value in data.items()},
    }


def disruption_budget(pool: AgentPool) -> Manifest:
    """Lets one worker at a time be evicted when a node is drained.

    It says how many must stay: RayClusters have no scale subresource, so Kubernetes cannot know how many workers there
    should be, and with `maxUnavailable` it would evict none.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": f"{pool.metadata.name}-worker"},
        "spec": {
            "minAvailable": max(0, pool.spec.workers.replicas - 1),
            "selector": {"matchLabels": names.selector(pool, names.WORKER)},
        },
    }


def network_policies(pool: AgentPool, installation: Installation) -> list[Manifest]:
    """Who may reach the pods. They do not replace the pool's secret, since not every network enforces them."""
    within = {"from": [{"podSelector": {"matchLabels": {names.POOL_LABEL: pool.metadata.name}}}]}
    workers = [
        within,
        _from([pods_anywhere(dict(installation.gateway_labels))], names.WORKER_PORT),
        _from(installation.scrapers, names.METRICS_PORT),
    ]
    head = [within, _from(map(pods_anywhere, KUBERAY), names.RAY_PORTS["dashboard"])]
    return [_policy(pool, names.WORKER, workers), _policy(pool, names.HEAD, head)]


def pod_monitor(pool: AgentPool, installation: Installation) -> Manifest:
    """Lets a Prometheus operator scrape the workers."""
    interval = {"interval": installation.pod_monitor_interval} if installation.pod_monitor_interval else {}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": f"{pool.metadata.name}-worker", "labels": dict(installation.pod_monitor_labels)},
        "spec": {
            "selector": {"matchLabels": names.selector(pool, names.WORKER)},
            "podMetricsEndpoints": [{"port": "metrics", **interval}],
        },
    }


def _policy(pool: AgentPool, component: str, ingress: list[Manifest]) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{pool.metadata.name}-{component}"},
        "spec": {
            "podSelector": {"matchLabels": names.selector(pool, component)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _from(peers: Iterable[Mapping[str, Any]], port: int) -> Manifest:
    return {"from": [dict(peer) for peer in peers], "ports": [{"port": port, "protocol": "TCP"}]}
