"""Settings of one installation of Roost, for all of its pools."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def pods_anywhere(labels: Mapping[str, str]) -> Mapping[str, Any]:
    """A NetworkPolicy peer: pods with all these labels, in any namespace."""
    return {"namespaceSelector": {}, "podSelector": {"matchLabels": dict(labels)}}


PROMETHEUS = pods_anywhere({"app.kubernetes.io/name": "prometheus"})
"""A Prometheus in any namespace, with the labels that its usual charts and its operator set."""


@dataclass(frozen=True, slots=True)
class Installation:
    """Settings that are the same for every pool of the cluster."""

    worker_image: str = "ghcr.io/roost-dev/roost-worker:latest"
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    ray_version: str = "2.60.0"
    store_url: str = "redis://roost-redis:6379"
    """Redis, as the operator and the gateways reach it."""
    worker_store_url: str = field(default="", repr=False)
    """The same server with the workers' credentials, which allow leases only; empty to use `store_url`."""
    ray_store_url: str = field(default="", repr=False)
    """The same server with the credentials of Ray's heads, which keep their state under their own keys. If empty, heads
    keep it in memory, and losing one restarts its workers."""
    pool_key: str = field(default="", repr=False)
    """Key from which the operator and the gateways derive each pool's secret."""
    pod_monitors: bool = False
    """Whether pools get a PodMonitor if the cluster has that kind."""
    pod_monitor_labels: tuple[tuple[str, str], ...] = ()
    """Labels by which a Prometheus finds those PodMonitors, in addition to our own."""
    pod_monitor_interval: str = ""
    """Time between scrapes; empty leaves it to the Prometheus."""
    network_policies: bool = True
    gateway_labels: tuple[tuple[str, str], ...] = (
        ("app.kubernetes.io/component", "gateway"),
        ("app.kubernetes.io/name", "roost"),
    )
    """Labels of gateway pods, which may reach workers; the chart adds those of its release."""
    scrapers: tuple[Mapping[str, Any], ...] = (PROMETHEUS,)
    """NetworkPolicy peers that may read the workers' metrics."""

    def __post_init__(self) -> None:
        if not self.pool_key:
            raise ValueError("the pool key is empty; set ROOST_POOL_KEY to at least 32 random characters")
