"""The RayService of a pool: Ray's head, one group of workers, and the Serve application of `roost_worker.serve_app`.

KubeRay does not count the number of replicas as a change of a RayService: it never reaches the live RayCluster, so the
plan writes it to both. Roles and budgets are not among the application's arguments, whose change restarts workers.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from roost.contract.pool_secret import pool_secret
from roost_operator.api.spec import GROUP, AgentPool, Upgrade
from roost_operator.api.worker_config import worker_config
from roost_operator.plan import names
from roost_operator.plan.head_state import ANNOTATIONS, HeadState, fault_tolerance
from roost_operator.plan.installation import Installation
from roost_operator.plan.pods import check_template, gpus, head_template, rank_threads, worker_template

API_VERSION = "ray.io/v1"
IMPORT_PATH, DEPLOYMENT = "roost_worker.serve_app:app", "worker"
"""The application's import path and its deployment's name; a test compares them with the application itself."""
MOST_WORKERS = 1024
LEAN = {"object-store-memory": "100000000", "include-log-monitor": "0"}
"""Start parameters of every Ray node. No tensor travels through the object store, so it gets little more than its
smallest size instead of 30 % of the memory. No driver reads the logs that the monitor would send; they are files in the
pod."""
NO_AUTOSCALER = {"no-monitor": "true"}
"""The head's monitor belongs to the autoscaler, and here the operator sizes the cluster. KubeRay 1.6.2 drops options
whose value is "false", so an option that turns something off must be "true" or "0"."""
_STRATEGIES = {Upgrade.NEW_CLUSTER: "NewCluster", Upgrade.IN_PLACE: "None", Upgrade.NONE: "None"}
"""KubeRay's strategies. It has none for an upgrade in place, which this operator carries out (`plan.renewal`)."""
_ONE_AT_A_TIME = {"rolling_update_percentage": 0.0001}
"""Serve rounds this up to one replica."""
_FROM_ENVIRONMENT = ("store_url", "pool_secret", "cache_dir")


@dataclass(frozen=True, slots=True)
class Size:
    """How many pods and replicas a group is to have; they differ while it grows or shrinks."""

    pods: int
    replicas: int


def ray_service(
    pool: AgentPool,
    installation: Installation,
    size: Size,
    *,
    suspend: bool,
    state: HeadState | None = None,
    arguments: Mapping[str, Any] | None = None,
    own_store_url: str = "",
    ray_token: str = "",
) -> dict[str, Any]:
    """The desired RayService. Raises TemplateError when the pod template cannot be used.

    Its head keeps its state at `state`. Its workers publish to `own_store_url` when the pool has its own store.
    `arguments`, if given, replace the spec's arguments of the Serve application. Ray's processes and its dashboard
    require `ray_token` if given, which is in the pool's Secret.
    """
    check_template(pool.spec.workers.template)
    from_spec = application_arguments(pool)
    store_url = own_store_url or installation.worker_store_url or installation.store_url
    annotations = _annotations(pool, installation, from_spec, state, store_url, ray_token)
    start = _start_parameters(pool)
    return {
        "apiVersion": API_VERSION,
        "kind": "RayService",
        "metadata": {"name": pool.metadata.name, **({"annotations": ANNOTATIONS} if state else {})},
        "spec": {
            "serveConfigV2": serve_config(pool, arguments or from_spec, size.replicas),
            "upgradeStrategy": {"type": _STRATEGIES[pool.spec.workers.upgrade]},
            # Gateways leave old workers when the active revision or the drain says so, not when KubeRay switches.
            "rayClusterDeletionDelaySeconds": pool.spec.workers.drain_timeout_seconds,
            "excludeHeadPodFromServeSvc": True,
            "rayClusterConfig": {
                "rayVersion": installation.ray_version,
                "enableInTreeAutoscaling": False,
                "suspend": suspend,
                **({"authOptions": {"mode": "token", "secretName": names.secret(pool)}} if ray_token else {}),
                **({"gcsFaultToleranceOptions": fault_tolerance(pool, state)} if state else {}),
                "headGroupSpec": {
                    "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0", **NO_AUTOSCALER, **LEAN},
                    "template": _signed(head_template(pool, installation, annotations)),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": names.WORKER_GROUP,
                        "replicas": size.pods,
                        "minReplicas": 0,
                        "maxReplicas": MOST_WORKERS,
                        "rayStartParams": start,
                        "template": _signed(worker_template(pool, installation, annotations), start),
                    }
                ],
            },
        },
    }


def suspended(live: Mapping[str, Any]) -> dict[str, Any]:
    """A live RayService with nothing changed but that it is suspended."""
    annotations = live["metadata"].get("annotations") or {}
    kept = {name: value for name, value in annotations.items() if name in ANNOTATIONS}
    config = {**live["spec"]["rayClusterConfig"], "suspend": True}
    return {
        "apiVersion": API_VERSION,
        "kind": "RayService",
        "metadata": {"name": live["metadata"]["name"], **({"annotations": kept} if kept else {})},
        "spec": {**live["spec"], "rayClusterConfig": config},
    }


def application_arguments(pool: AgentPool) -> dict[str, Any]:
    """Arguments of the Serve application. Workers read secrets from their environment instead."""
    config = asdict(
        worker_config(
            pool,
            store_url="",
            pool_secret="",
            host="0.0.0.0",
            port=names.WORKER_PORT,
            metrics_port=names.METRICS_PORT,
        )
    )
    worker = {name: value for name, value in config.items() if name not in _FROM_ENVIRONMENT}
    resources = {
        "shell_cpus": 1.0,
        "rank_cpus": 1.0,
        "rank_gpus": 1.0 if gpus(pool) else 0.0,
        "rank_threads": rank_threads(pool),
    }
    return {"worker": worker, "resources": resources}


def serve_config(pool: AgentPool, arguments: Mapping[str, Any], replicas: int) -> str:
    """The Serve configuration. `replicas` is not among the arguments, whose change restarts all workers."""
    application = {
        "name": pool.metadata.name,
        "import_path": IMPORT_PATH,
        "route_prefix": None,
        "args": dict(arguments),
        "deployments": [{"name": DEPLOYMENT, "num_replicas": replicas, **_ONE_AT_A_TIME}],
    }
    return yaml.safe_dump({"proxy_location": "Disabled", "applications": [application]}, sort_keys=True)


def _annotations(
    pool: AgentPool,
    installation: Installation,
    arguments: dict[str, Any],
    state: HeadState | None,
    store_url: str,
    ray_token: str,
) -> dict[str, str]:
    """Annotations whose change makes KubeRay start a new cluster instead of restarting every replica at once. Secrets
    count too, because pods read them only when they start."""
    secrets = [pool_secret(installation.pool_key, pool.pool), store_url]
    if state:
        secrets.append(f"{state.username} {state.password}")
    if ray_token:
        secrets.append(ray_token)
    return {names.ARGUMENTS: names.digest(arguments), f"{GROUP}/secrets": names.digest(secrets)}


def _signed(template: dict[str, Any], *more: Any) -> dict[str, Any]:
    """`template` with a digest of itself and of `more`, but not of the arguments, whose change replaces no pod."""
    metadata, annotations = template["metadata"], template["metadata"]["annotations"]
    counted = {name: value for name, value in annotations.items() if name != names.ARGUMENTS}
    digest = names.digest([{**template, "metadata": {**metadata, "annotations": counted}}, *more])
    return {**template, "metadata": {**metadata, "annotations": {**annotations, names.TEMPLATE: digest}}}


def _start_parameters(pool: AgentPool) -> dict[str, str]:
    """Logical resources for exactly one replica per pod: a CPU for its shell and one for each rank."""
    ranks, devices = pool.spec.model.tensor_parallel, gpus(pool)
    return {"num-cpus": str(1 + ranks), **LEAN, **({"num-gpus": str(devices)} if devices else {})}
