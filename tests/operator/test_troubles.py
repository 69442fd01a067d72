"""What is read out of the words of the kubelet, the scheduler, KubeRay and Serve."""

from dataclasses import replace
from typing import Any

import pytest

from condition_cases import SERVE_SAYS
from pool_world import observation
from roost_operator.kubernetes.pod_status import is_node, parse_pod
from roost_operator.plan import names
from roost_operator.plan.observed import Observed, Pod, Ray, RayCluster
from roost_operator.plan.ray_objects import parse_service
from roost_operator.plan.troubles import SILENCE_SECONDS, Troubles, troubles

RUNNING = (Pod(name="a", cluster="c", running=True),)


def observed(
    live: dict[str, Any] | None = None, now: float = 1.0, pods: tuple[Pod, ...] = (), heads: tuple[Pod, ...] = ()
) -> Observed:
    """A pool whose RayService was created at second 0."""
    metadata = {"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"}
    service = None if live is None else parse_service({"metadata": metadata, **live})
    ray = Ray(service=service, cluster=RayCluster("c"), pods=pods, heads=heads)
    return replace(observation(), now=now, ray=ray)


def serve(status: str, message: str = "", deployment: str = "") -> dict[str, Any]:
    """A RayService as KubeRay tells it from Serve."""
    deployments = {"worker": {"status": "UPDATING", "message": deployment}}
    application = {"status": status, "message": message, "serveDeploymentStatuses": deployments}
    return {"status": {"activeServiceStatus": {"applicationStatuses": {"p": application}}}}


def test_a_model_that_cannot_be_loaded_is_told_while_serve_tries_again() -> None:
    reported = troubles(observed(serve("DEPLOYING", "Deploying", SERVE_SAYS)), 1)
    assert reported == Troubles(model="file:///models/none: /models/none does not exist")


@pytest.mark.parametrize("error", ["ModelConfigError", "WeightsError", "RenderError", "ConvertError"])
def test_faults_of_a_model_by_their_names(error: str) -> None:
    text = SERVE_SAYS.replace("ConvertError", error).replace("file:///models/none: /models/none does not exist", "odd")
    assert troubles(observed(serve("DEPLOYING", "", text)), 1).model == "odd"


def test_other_faults_of_a_worker_are_no_faults_of_the_model() -> None:
    text = SERVE_SAYS.replace("roost_worker.convert.errors.ConvertError", "OSError")
    reported = troubles(observed(serve("DEPLOYING", "", text)), 1)
    assert (reported.model, reported.crashing.startswith("a worker cannot start: OSError: ")) == ("", True)


def test_a_replica_that_went_with_its_pod_is_no_failure_of_serves() -> None:
    unhealthy = serve("UNHEALTHY", "", "a replica is unhealthy")
    assert troubles(observed(unhealthy), 1).ray == ""
    assert (
        troubles(observed(unhealthy, pods=RUNNING), 1).ray == "Ray Serve cannot run the workers: a replica is unhealthy"
    )
    assert troubles(observed(serve("DEPLOY_FAILED", "no")), 1).ray == "Ray Serve cannot run the workers: no"


def test_only_pods_of_the_cluster_that_stays_count() -> None:
    bad = Pod(name="b", cluster="old", trouble="ErrImagePull")
    assert troubles(observed(pods=(bad,)), 1).image == ""
    assert troubles(observed(pods=(replace(bad, cluster="c", deleting=True),)), 1).image == ""
    assert troubles(observed(heads=(replace(bad, cluster="c"),)), 1).image == "pod b: ErrImagePull"


def test_kuberay_is_silent_when_it_has_not_looked_for_a_while() -> None:
    assert troubles(observed({}), 1).silent == ""
    assert troubles(observed({}, now=SILENCE_SECONDS + 1), 1).silent
    assert troubles(observed(serve("DEPLOYING"), now=99.0), 1).silent == ""


def test_words_do_not_change_with_time() -> None:
    """Or each resync would write the status anew."""
    assert troubles(observed({}, now=20.0), 1) == troubles(observed({}, now=50.0), 1)


def test_a_pod_as_the_kubelet_tells_it() -> None:
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": "no such file\n"}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    labels = {"ray.io/cluster": "c", "ray.io/group": "workers", "ray.io/node-type": "worker"}
    metadata = {"name": "a", "labels": labels, "annotations": {names.TEMPLATE: "t"}}
    status = {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"state": waiting, "lastState": ended}]}
    pod = parse_pod({"metadata": metadata, "status": status})
    assert pod == Pod(
        name="a",
        cluster="c",
        group="workers",
        address="10.0.0.1",
        running=True,
        trouble="CrashLoopBackOff",
        message="back-off 10s; it ended with 1 (Error): no such file",
        template="t",
    )
    starting = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    assert parse_pod({"metadata": metadata, "status": {"containerStatuses": [starting]}}).trouble == ""


def test_the_job_that_removes_a_heads_state_is_no_head() -> None:
    assert is_node({"metadata": {"labels": {"ray.io/node-type": "head"}}})
    assert not is_node({"metadata": {"labels": {"ray.io/node-type": "redis-cleanup"}}})
