"""What the operator writes for Ray Serve is what the worker's application reads."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import yaml

from roost_operator.api.loader import load_pool
from roost_operator.api.spec import AgentPool
from roost_operator.plan.installation import Installation
from roost_operator.plan.ray_service import DEPLOYMENT, IMPORT_PATH, Size, ray_service
from roost_worker.server.config_file import config_from

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own
    serve_app = importlib.import_module("roost_worker.serve_app")

INSTALLATION = Installation(pool_key="k" * 32)


def pool() -> AgentPool:
    return load_pool(Path(__file__).parents[2] / "manifests" / "samples" / "pool-dummy.yaml")


def test_arguments_are_those_of_the_application() -> None:
    """The application's own reader takes what the operator writes, and no secret is among it."""
    service = ray_service(pool(), INSTALLATION, Size(1, 1), suspend=False)
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    application = config["applications"][0]
    assert config_from(application["args"]["worker"]).pool == "default/dummy"
    assert set(application["args"]) <= {"worker", "replicas", "resources"}
    serve_app.Resources(**application["args"]["resources"])
    assert (IMPORT_PATH, DEPLOYMENT) == ("roost_worker.serve_app:app", serve_app.DEPLOYMENT)
    assert "secret" not in service["spec"]["serveConfigV2"]


def test_secrets_reach_workers_by_their_environment() -> None:
    config = config_from({"pool": "a/b", "model": {"name": "m", "source": "dummy://llama-tiny"}})
    complete = serve_app.with_environment(config, {"ROOST_STORE_URL": "redis://r", "ROOST_POOL_SECRET": "s"})
    assert (complete.store_url, complete.pool_secret) == ("redis://r", "s")
    assert serve_app.with_environment(config, {}) == config


def test_one_replica_fits_a_pod() -> None:
    group = ray_service(pool(), INSTALLATION, Size(1, 1), suspend=False)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    resources = serve_app.Resources(shell_cpus=1.0, rank_cpus=1.0)
    assert sum(bundle["CPU"] for bundle in resources.bundles(1)) == int(group[0]["rayStartParams"]["num-cpus"])


def test_a_worker_that_cannot_start_is_tried_for_ever_and_not_all_the_time() -> None:
    """What it lacks may come; Serve's own three times would be over by then."""
    config = config_from({"pool": "a/b", "model": {"name": "m", "source": "dummy://llama-tiny"}})
    deployment = serve_app.build_app(config, 1)._bound_deployment
    assert deployment._deployment_config.max_constructor_retry_count == serve_app.MOST_STARTS
    cluster = ray_service(pool(), INSTALLATION, Size(1, 1), suspend=False)["spec"]["rayClusterConfig"]
    groups = (cluster["headGroupSpec"], cluster["workerGroupSpecs"][0])
    head, worker = (
        {variable["name"]: variable.get("value") for variable in _container(group)["env"]} for group in groups
    )
    assert head["RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT"] == str(serve_app.MOST_STARTS)
    assert float(str(worker[serve_app.RETRY_VARIABLE])) > 0


def _container(group: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = group["template"]["spec"]["containers"][0]
    return container
