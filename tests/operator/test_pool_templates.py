"""A pool's pod templates: what is merged into them, what is refused, and what of the worker's the head shares."""

from typing import Any

import pytest

from pool_world import INSTALLATION, observation, pool, template
from roost_operator.api.model_spec import KvCacheSpec
from roost_operator.plan.merge import merged
from roost_operator.plan.plan import Stage, plan
from roost_operator.plan.pods import TemplateError, rank_threads
from roost_operator.plan.ray_service import Size, ray_service


def test_template_is_merged_into_workers_and_head() -> None:
    given = template(image="mine", env=[{"name": "HOME", "value": "/home"}], resources={"limits": {"memory": "9Gi"}})
    given["spec"]["nodeSelector"] = {"disk": "fast"}
    given["spec"]["tolerations"] = [{"key": "gpu", "operator": "Exists"}]
    config = ray_service(pool(template=given), INSTALLATION, Size(1, 1), suspend=False)["spec"]["rayClusterConfig"]
    worker = config["workerGroupSpecs"][0]["template"]["spec"]
    head = config["headGroupSpec"]["template"]["spec"]
    for spec in (worker, head):
        assert spec["securityContext"]["runAsGroup"] == 65532
        assert len(spec["containers"]) == 1
        assert spec["containers"][0]["image"] == "mine"
        assert {"name": "HOME", "value": "/home"} in spec["containers"][0]["env"]
        assert spec["nodeSelector"] == {"disk": "fast"}
    assert worker["containers"][0]["resources"]["limits"] == {"memory": "9Gi"}
    assert "limits" not in head["containers"][0]["resources"]
    marks = config["workerGroupSpecs"][0]["template"]["metadata"]["annotations"]
    assert "roost.dev/tolerations" in marks


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sepc": {}}, "sepc is unknown; use metadata and spec"),
        ({"metadata": {"name": "x"}}, "metadata.name cannot be given; use labels"),
        ({"spec": {"containers": [{"image": "x"}]}}, "each needs a name"),
        ({"spec": {"volumes": "models"}}, r"template.spec.volumes must be a list \(- item\)"),
        (template(env=["A=b"]), r"containers\[0\].env\[0\] must be a mapping"),
        (template(resources={"limits": {"nvidia.com/gpu": 2}}), "ask for 1, or set tensorParallel to 2"),
        ({"spec": {"terminationGracePeriodSeconds": 1}}, "raise it or leave it out"),
        (template(resources={"limits": {"cpu": "two"}}), "resources, cpu: 'two' is not a number of CPUs; write for"),
    ],
)
def test_templates_that_cannot_be_used(given: dict[str, Any], says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        ray_service(pool(template=given), INSTALLATION, Size(1, 1), suspend=False)
    planned = plan(pool(template=given), INSTALLATION, observation(has_finalizer=True))
    assert (planned.stage, planned.idle) == (Stage.WAIT, True)
    assert planned.status["conditions"][0]["reason"] == "InvalidTemplate"


@pytest.mark.parametrize(("limit", "says"), [("1Gi", "raise the limit or lower hostMemory"), ("much", "memory: ")])
def test_host_memory_is_below_the_memory_limit_of_a_worker(limit: str, says: str) -> None:
    given = pool(template=template(resources={"limits": {"memory": limit}}))
    ray_service(given, INSTALLATION, Size(1, 1), suspend=False)
    model = given.spec.model.model_copy(update={"kv_cache": KvCacheSpec(hostMemory="1Gi")})
    spec = given.spec.model_copy(update={"models": (model,)})
    with pytest.raises(TemplateError, match=says):
        ray_service(given.model_copy(update={"spec": spec}), INSTALLATION, Size(1, 1), suspend=False)


@pytest.mark.parametrize(
    ("resources", "threads"),
    [
        ({}, 1),
        ({"requests": {"cpu": 8}}, 8),
        ({"requests": {"cpu": "100m"}}, 1),
        ({"requests": {"cpu": "2"}, "limits": {"cpu": "4500m"}}, 4),
        ({"limits": {"memory": "9Gi"}}, 1),
        ({"requests": None, "limits": {"cpu": 3}}, 3),
        ({"requests": None, "limits": None}, 1),
    ],
)
def test_ranks_take_no_more_threads_than_the_pod_may_use(resources: dict[str, Any], threads: int) -> None:
    assert rank_threads(pool(template=template(resources=resources))) == threads


def containers(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The worker's and the head's, as they are made."""
    config = ray_service(pool(template=given), INSTALLATION, Size(1, 1), suspend=False)["spec"]["rayClusterConfig"]
    groups = (config["workerGroupSpecs"][0], config["headGroupSpec"])
    worker, head = (group["template"]["spec"]["containers"][0] for group in groups)
    return worker, head


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {"cpu": "1", "memory": "2Gi"}),
        ({"limits": {"memory": "1Gi"}}, {"cpu": "1"}),
        ({"limits": {"memory": "1Gi", "cpu": "500m"}}, None),
        ({"limits": {"memory": "8Gi"}, "requests": {"memory": "4Gi"}}, {"cpu": "1", "memory": "4Gi"}),
        ({"limits": None}, {"cpu": "1", "memory": "2Gi"}),
        ({"requests": None}, None),
    ],
)
def test_a_container_asks_for_no_more_than_its_limit(given: dict[str, Any], asked: dict[str, str] | None) -> None:
    worker, _ = containers(template(resources=given))
    assert (worker["resources"].get("requests") or None) == asked
    head = {"name": "head", "resources": {"limits": {"memory": "1Gi"}}}
    _, head = containers({"spec": {"containers": [head]}})
    assert head["resources"] == {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi"}}


HANDLERS = ("exec", "grpc", "httpGet", "sleep", "tcpSocket")


@pytest.mark.parametrize("probe", [{"tcpSocket": {"port": 1}}, {"exec": {"command": ["x"]}}, {"periodSeconds": 9}])
def test_a_probe_or_hook_has_one_handler(probe: dict[str, Any]) -> None:
    hook = {"preStop": {"sleep": {"seconds": 5}}}
    worker, _ = containers(template(readinessProbe=probe, lifecycle=hook))
    readiness = worker["readinessProbe"]
    assert [name for name in HANDLERS if name in readiness] == [next((n for n in HANDLERS if n in probe), "grpc")]
    assert readiness["failureThreshold"] == 2
    assert worker["lifecycle"] == hook


def test_a_variable_has_one_value_from_one_place() -> None:
    variables = [{"name": "ROOST_POD_IP", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]
    worker, _ = containers(template(env=[*variables, {"name": "ROOST_POOL_SECRET", "value": "x"}]))
    assert [variable for variable in worker["env"] if variable["name"] in ("ROOST_POD_IP", "ROOST_POOL_SECRET")] == [
        *variables,
        {"name": "ROOST_POOL_SECRET", "value": "x"},
    ]


def test_the_head_has_nothing_of_the_workers_process() -> None:
    shared = {
        "image": "mine",
        "imagePullPolicy": "Always",
        "envFrom": [{"configMapRef": {"name": "proxy"}}],
        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
        "securityContext": {"runAsUser": 7},
    }
    probes = {name: {"grpc": {"port": 8471}} for name in ("readinessProbe", "livenessProbe", "startupProbe")}
    process = {**probes, "lifecycle": {"postStart": {}}, "args": ["a"], "workingDir": "/w", "tty": True}
    worker, head = containers(template(**shared, **process))
    assert {name for name in process if name in head} == set()
    assert {name for name in process if name in worker} == {*process}
    for name in ("image", "imagePullPolicy", "envFrom"):
        assert head[name] == shared[name]
    assert shared["volumeMounts"][0] in head["volumeMounts"]
    assert head["securityContext"]["runAsUser"] == 7


def test_merge_replaces_a_volume_and_removes_by_null() -> None:
    under = {"volumes": [{"name": "cache", "emptyDir": {}}], "a": 1}
    assert merged(under, {"volumes": [{"name": "cache", "hostPath": {"path": "/x"}}], "a": None}) == {
        "volumes": [{"name": "cache", "hostPath": {"path": "/x"}}]
    }
