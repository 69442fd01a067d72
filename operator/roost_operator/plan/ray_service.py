"""The RayService of a pool: Ray's head, one group of workers, and the Serve application of `roost_worker.serve_app`.

Replicas are not part of a RayService's identity for KubeRay: a change of them never reaches the living RayCluster, so
that the plan writes them to both. Roles and budgets are no arguments of the application, which would restart workers.
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
"""Where the application is, and its deployment's name; a test compares them with the application itself."""
MOST_WORKERS = 1024
LEAN = {"object-store-memory": "100000000", "include-log-monitor": "0"}
"""Of every Ray node. No tensor travels through the object store, whose smallest size with room to spare this is, in
place of 30 % of the memory. No driver reads the logs that the monitor would send it; they are files in the pod."""
NO_AUTOSCALER = {"no-monitor": "true"}
"""The head's monitor is the autoscaler's, and the operator sizes the cluster. KubeRay 1.6.2 drops options whose value
is "false", so that what turns something off must say "true" or "0"."""
_STRATEGIES = {Upgrade.NEW_CLUSTER: "NewCluster", Upgrade.IN_PLACE: "None", Upgrade.NONE: "None"}
"""What KubeRay is told; it knows no upgrade in place, which is this operator's work."""
_ONE_AT_A_TIME = {"rolling_update_percentage": 0.0001}
"""Serve rounds it up to one replica."""
_SECRETS = ("store_url", "pool_secret", "cache_dir")


@dataclass(frozen=True, slots=True)
class Size:
    """How many pods and how many replicas there are to be; they differ while a pool grows or shrinks."""

    pods: int
    replicas: int


def ray_service(
    pool: AgentPool,
    installation: Installation,
    size: Size,
    *,
    suspend: bool,
    state: HeadState | None = None,
    arguments: dict[str, Any] | None = None,
    own_store_url: str = "",
) -> dict[str, Any]:
    """The desired RayService, whose head keeps its state at `state`, and whose workers publish to `own_store_url` when
    the pool has a store of its own. `arguments` are given to Serve in place of those of the spec. Raises TemplateError
    when the pod template cannot be used."""
    check_template(pool.spec.workers.template)
    wanted = application_arguments(pool)
    store_url = own_store_url or installation.worker_store_url or installation.store_url
    marks = _marks(pool, installation, wanted, state, store_url)
    start = _start_parameters(pool)
    return {
        "apiVersion": API_VERSION,
        "kind": "RayService",
        "metadata": {"name": pool.metadata.name, **({"annotations": ANNOTATIONS} if state else {})},
        "spec": {
            "serveConfigV2": serve_config(pool, arguments or wanted, size.replicas),
            "upgradeStrategy": {"type": _STRATEGIES[pool.spec.workers.upgrade]},
            # Gateways leave old workers when the active revision or the drain says so, not when KubeRay switches.
            "rayClusterDeletionDelaySeconds": pool.spec.workers.drain_timeout_seconds,
            "excludeHeadPodFromServeSvc": True,
            "rayClusterConfig": {
                "rayVersion": installation.ray_version,
                "enableInTreeAutoscaling": False,
                "suspend": suspend,
                **({"gcsFaultToleranceOptions": fault_tolerance(pool, state)} if state else {}),
                "headGroupSpec": {
                    "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0", **NO_AUTOSCALER, **LEAN},
                    "template": _signed(head_template(pool, installation, marks)),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": names.WORKER_GROUP,
                        "replicas": size.pods,
                        "minReplicas": 0,
                        "maxReplicas": MOST_WORKERS,
                        "rayStartParams": start,
                        "template": _signed(worker_template(pool, installation, marks), start),
                    }
                ],
            },
        },
    }


def suspended(live: Mapping[str, Any]) -> dict[str, Any]:
    """A live RayService as it is, but suspended."""
    notes = {name: value for name, value in (live["metadata"].get("annotations") or {}).items() if name in ANNOTATIONS}
    config = {**live["spec"]["rayClusterConfig"], "suspend": True}
    return {
        "apiVersion": API_VERSION,
        "kind": "RayService",
        "metadata": {"name": live["metadata"]["name"], **({"annotations": notes} if notes else {})},
        "spec": {**live["spec"], "rayClusterConfig": config},
    }


def application_arguments(pool: AgentPool) -> dict[str, Any]:
    """Arguments of the Serve application. Secrets are not among them: workers read those from their environment."""
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
    worker = {name: value for name, value in config.items() if name not in _SECRETS}
    resources = {
        "shell_cpus": 1.0,
        "rank_cpus": 1.0,
        "rank_gpus": 1.0 if gpus(pool) else 0.0,
        "rank_threads": rank_threads(pool),
    }
    return {"worker": worker, "resources": resources}


def serve_config(pool: AgentPool, arguments: dict[str, Any], replicas: int) -> str:
    """The Serve configuration; the number of replicas stands outside of the arguments, whose change restarts all."""
    application = {
        "name": pool.metadata.name,
        "import_path": IMPORT_PATH,
        "route_prefix": None,
        "args": arguments,
        "deployments": [{"name": DEPLOYMENT, "num_replicas": replicas, **_ONE_AT_A_TIME}],
    }
    return yaml.safe_dump({"proxy_location": "Disabled", "applications": [application]}, sort_keys=True)


def replicas_in(service: dict[str, Any]) -> int | None:
    """Number of replicas that a live RayService asks Serve for; None when it does not say."""
    try:
        document = yaml.safe_load(service["spec"]["serveConfigV2"])
        return int(document["applications"][0]["deployments"][0]["num_replicas"])
    except (KeyError, IndexError, TypeError, ValueError, yaml.YAMLError):
        return None


def arguments_in(service: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments that a live RayService gives to Serve; None when it does not say."""
    try:
        found = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]
    except (KeyError, IndexError, TypeError, yaml.YAMLError):
        return None
    return found if isinstance(found, dict) else None


def _marks(
    pool: AgentPool, installation: Installation, arguments: dict[str, Any], state: HeadState | None, store_url: str
) -> dict[str, str]:
    """Annotations whose change makes KubeRay start a new cluster, rather than restart every replica at once. Pods read
    Secrets when they start: another value asks for other pods."""
    secrets = [pool_secret(installation.pool_key, pool.pool), store_url]
    if state:
        secrets.append(f"{state.username} {state.password}")
    return {names.ARGUMENTS: names.digest(arguments), f"{GROUP}/secrets": names.digest(secrets)}


def _signed(template: dict[str, Any], *more: Any) -> dict[str, Any]:
    """`template` with a digest of itself and of `more`. Arguments are not counted: replicas change for those, not
    pods."""
    metadata = template["metadata"]
    kept = {name: value for name, value in metadata["annotations"].items() if name != names.ARGUMENTS}
    digest = names.digest([{**template, "metadata": {**metadata, "annotations": kept}}, *more])
    return {**template, "metadata": {**metadata, "annotations": {**metadata["annotations"], names.TEMPLATE: digest}}}


def _start_parameters(pool: AgentPool) -> dict[str, str]:
    """Logical resources for exactly one replica in a pod: a CPU for its shell and one for each rank."""
    ranks, devices = pool.spec.model.tensor_parallel, gpus(pool)
    return {"num-cpus": str(1 + ranks), **LEAN, **({"num-gpus": str(devices)} if devices else {})}
