"""The operator's settings, from the environment. Secrets may be given by files, as they are mounted (`..._FILE`)."""

import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roost_operator.plan.head_state import parsed
from roost_operator.plan.installation import Installation


class SettingsError(ValueError):
    """A setting is missing or wrong; the text names it and says how to mend it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How this process runs."""

    installation: Installation
    namespace: str
    """Namespace of the operator's Lease."""
    identity: str
    resync_seconds: float = 10.0
    """How often every pool is reconciled without an event."""
    lease_seconds: float = 15.0
    """How long the lease of a leader lasts after its last renewal."""
    metrics_host: str = "0.0.0.0"
    metrics_port: int = 9401
    liveness: str = "http://0.0.0.0:9402/healthz"


def settings_from(environment: Mapping[str, str]) -> Settings:
    """Return the settings in environment variables. Raises SettingsError."""
    namespace = environment.get("ROOST_NAMESPACE", "default")
    try:
        return Settings(
            installation=_installation(environment, namespace),
            namespace=namespace,
            identity=environment.get("ROOST_IDENTITY") or f"{socket.gethostname()}-{secrets.token_hex(4)}",
            resync_seconds=float(environment.get("ROOST_RESYNC_SECONDS", "10")),
            lease_seconds=float(environment.get("ROOST_LEASE_SECONDS", "15")),
            metrics_host=environment.get("ROOST_METRICS_HOST", "0.0.0.0"),
            metrics_port=int(environment.get("ROOST_METRICS_PORT", "9401")),
            liveness=environment.get("ROOST_LIVENESS", "http://0.0.0.0:9402/healthz"),
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _installation(environment: Mapping[str, str], namespace: str) -> Installation:
    default = Installation(pool_key="-")
    return Installation(
        worker_image=environment.get("ROOST_WORKER_IMAGE", default.worker_image),
        pull_policy=environment.get("ROOST_WORKER_PULL_POLICY", default.pull_policy),
        pull_secrets=tuple(name for name in environment.get("ROOST_PULL_SECRETS", "").split(",") if name),
        ray_version=environment.get("ROOST_RAY_VERSION", default.ray_version),
        store_url=_secret(environment, "ROOST_STORE_URL") or default.store_url,
        worker_store_url=_secret(environment, "ROOST_WORKER_STORE_URL"),
        ray_store_url=_redis(environment, "ROOST_RAY_STORE_URL"),
        pool_key=_secret(environment, "ROOST_POOL_KEY"),
        pod_monitors=_flag(environment, "ROOST_POD_MONITORS", False),
        pod_monitor_labels=_labels(environment, "ROOST_POD_MONITOR_LABELS"),
        pod_monitor_interval=environment.get("ROOST_POD_MONITOR_INTERVAL", default.pod_monitor_interval),
        gateway_labels=_labels(environment, "ROOST_GATEWAY_LABELS") or default.gateway_labels,
        scrapers=_peers(environment, "ROOST_SCRAPERS", namespace) or default.scrapers,
        network_policies=_flag(environment, "ROOST_NETWORK_POLICIES", True),
    )


def _secret(environment: Mapping[str, str], name: str) -> str:
    file = environment.get(f"{name}_FILE")
    if not file:
        return environment.get(name, "")
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{name}_FILE: {file} cannot be read ({error.strerror}); mount the Secret there") from error


def _redis(environment: Mapping[str, str], name: str) -> str:
    url = _secret(environment, name)
    if url and parsed(url) is None:
        raise SettingsError(f"{name} is not a URL for Ray; write redis://user:password@host:6379, or remove it")
    return url


def _flag(environment: Mapping[str, str], name: str, default: bool) -> bool:
    value = environment.get(name, str(default)).lower()
    if value not in ("true", "false"):
        raise SettingsError(f"{name}: {value!r} is not allowed; write true or false")
    return value == "true"


def _labels(environment: Mapping[str, str], name: str) -> tuple[tuple[str, str], ...]:
    labels = _json(environment, name)
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise SettingsError(f'{name} holds no labels; write a JSON object of texts, as {{"release": "prometheus"}}')
    return tuple(sorted(labels.items()))


def _peers(environment: Mapping[str, str], name: str, namespace: str) -> tuple[Mapping[str, Any], ...]:
    """Peers of the installation's own policies. A peer without a namespace is in theirs, also in a pool's policy."""
    peers = _json(environment, name, default="[]")
    if not isinstance(peers, list) or not all(isinstance(peer, dict) for peer in peers):
        raise SettingsError(f'{name} holds no peers; write a JSON list of them, as [{{"namespaceSelector": {{}}}}]')
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    return tuple(peer if "ipBlock" in peer else {**here, **peer} for peer in peers)


def _json(environment: Mapping[str, str], name: str, default: str = "{}") -> Any:
    """Return the value, or None for text that is not JSON."""
    try:
        return json.loads(environment.get(name) or default)
    except ValueError:
        return None


def from_process() -> Settings:
    """Return the settings of this process. Raises SettingsError."""
    return settings_from(os.environ)
