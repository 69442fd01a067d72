"""What one installation of Roost tells its operator, for all pools."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def pods_anywhere(labels: Mapping[str, str]) -> Mapping[str, Any]:
    """The pods of any namespace that have all these labels, as a peer of a NetworkPolicy."""
    return {"namespaceSelector": {}, "podSelector": {"matchLabels": dict(labels)}}


PROMETHEUS = pods_anywhere({"app.kubernetes.io/name": "prometheus"})
"""A Prometheus in any namespace, labelled as its usual charts and its operator do."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The same for every pool of the cluster."""

    worker_image: str = "ghcr.io/roost-dev/roost-worker:latest"
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    ray_version: str = "2.60.0"
    store_url: str = "redis://roost-redis:6379"
    """Where the operator and the gateways keep pools and sessions."""
    worker_store_url: str = field(default="", repr=False)
    """The same server with the credentials of workers, who may write leases only; empty: as `store_url`."""
    ray_store_url: str = field(default="", repr=False)
    """The same server with the credentials of Ray's heads, who keep their state under keys of their own; empty: heads
    keep it in memory, and their loss restarts the workers."""
    pool_key: str = field(default="", repr=False)
    """Key from which the secret of each pool is derived, as gateways do."""
    pod_monitors: bool = False
    """Whether pools get a PodMonitor, where that kind exists."""
    pod_monitor_labels: tuple[tuple[str, str], ...] = ()
    """Labels by which a Prometheus finds those PodMonitors, beside our own."""
    pod_monitor_interval: str = ""
    """Time between scrapes; empty leaves it to the Prometheus."""
    network_policies: bool = True
    gateway_labels: tuple[tuple[str, str], ...] = (
        ("app.kubernetes.io/component", "gateway"),
        ("app.kubernetes.io/name", "roost"),
    )
    """Labels of gateway pods, which may reach workers; the chart adds its release's."""
    scrapers: tuple[Mapping[str, Any], ...] = (PROMETHEUS,)
    """Peers, as in a NetworkPolicy, that may read the metrics of workers."""

    def __post_init__(self) -> None:
        if not self.pool_key:
            raise ValueError("the pool key is empty; set ROOST_POOL_KEY to at least 32 random characters")
