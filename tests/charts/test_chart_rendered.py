"""The chart as Helm renders it: linted with every values file, the objects that each gives, and what Helm refuses.

helm is that of `$ROOST_HELM`, of PATH or of `make e2e`; without it these tests are skipped. Whether the objects are
valid to an API server is told by tests/cluster/test_chart_on_cluster.py.
"""

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from built_binaries import helm_or_skip
from roost_operator.kubernetes.settings import settings_from
from roost_operator.plan.installation import Installation

pytestmark = pytest.mark.binaries
CHART = Path(__file__).parents[2] / "charts/roost"
VALUES = [None, *sorted([*CHART.glob("ci/*.yaml"), *CHART.glob("values-*.yaml")])]
Manifest = dict[str, Any]
PODS = ("Deployment", "StatefulSet", "Job", "Pod")


class Helm:
    def __init__(self, binary: Path) -> None:
        self._binary = binary

    def __call__(self, *arguments: str, fails: bool = False) -> str:
        command = [str(self._binary), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def objects(self, *arguments: str) -> list[Manifest]:
        rendered = self("template", "roost", str(CHART), "--namespace", "here", *arguments)
        return [item for item in yaml.safe_load_all(rendered) if item]


@pytest.fixture(scope="module")
def helm() -> Helm:
    return Helm(helm_or_skip())


def file_arguments(file: Path | None) -> tuple[str, ...]:
    return ("--values", str(file)) if file else ()


def pod_spec(item: Manifest) -> Manifest:
    spec: Manifest = item["spec"] if item["kind"] == "Pod" else item["spec"]["template"]["spec"]
    return spec


def named(objects: list[Manifest], kind: str, name: str) -> Manifest:
    return next(item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name))


@pytest.mark.parametrize("file", VALUES, ids=lambda path: path.name if path else "defaults")
def test_helm_finds_no_fault(helm: Helm, file: Path | None) -> None:
    helm("lint", "--strict", str(CHART), *file_arguments(file))


@pytest.mark.parametrize("file", VALUES, ids=lambda path: path.name if path else "defaults")
def test_every_pod_is_without_privilege_and_every_object_in_its_place(helm: Helm, file: Path | None) -> None:
    objects = helm.objects(*file_arguments(file))
    keys = [(item["kind"], item["metadata"]["name"]) for item in objects]
    assert [key for key, times in Counter(keys).items() if times > 1] == []
    for item in objects:
        cluster_wide = item["kind"].startswith("ClusterRole") or item["kind"] == "CustomResourceDefinition"
        assert item["metadata"].get("namespace") == (None if cluster_wide else "here"), item["metadata"]["name"]
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == "roost"
    pods = [pod_spec(item) for item in objects if item["kind"] in PODS]
    assert len(pods) >= 3
    for pod in pods:
        assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 65532)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_the_defaults_make_everything_that_an_installation_needs(helm: Helm) -> None:
    kinds = Counter(item["kind"] for item in helm.objects())
    wanted = {"Deployment": 2, "StatefulSet": 1, "Service": 3, "HorizontalPodAutoscaler": 1, "PodDisruptionBudget": 1}
    wanted |= {"NetworkPolicy": 3, "CustomResourceDefinition": 1, "Job": 2, "Pod": 1, "ConfigMap": 2}
    assert {kind: kinds[kind] for kind in wanted} == wanted
    assert kinds["Secret"] == 0, "secrets are drawn in the cluster, once"


def test_everything_else_can_be_asked_for(helm: Helm) -> None:
    kinds = Counter(item["kind"] for item in helm.objects("--values", str(CHART / "ci/everything-values.yaml")))
    assert {kind: kinds[kind] for kind in ("GRPCRoute", "HTTPRoute", "PodMonitor", "Secret")} == {
        "GRPCRoute": 1,
        "HTTPRoute": 1,
        "PodMonitor": 2,
        "Secret": 1,
    }
    assert kinds["ConfigMap"] == 3, "the dashboard's too"


def told(objects: list[Manifest]) -> Installation:
    """What the operator reads of its environment."""
    (container,) = pod_spec(named(objects, "Deployment", "roost-operator"))["containers"]
    plain = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
    return settings_from({**plain, "ROOST_NAMESPACE": "here", "ROOST_POOL_KEY": "k"}).installation


def test_every_monitor_has_what_is_asked_for_those_of_pools_too(helm: Helm) -> None:
    interval = ("--set", "monitoring.podMonitors.interval=45s")
    objects = helm.objects("--values", str(CHART / "ci/everything-values.yaml"), *interval)
    monitors = [item for item in objects if item["kind"] == "PodMonitor"]
    assert [monitor["metadata"]["labels"]["release"] for monitor in monitors] == ["prometheus", "prometheus"]
    assert {monitor["spec"]["podMetricsEndpoints"][0]["interval"] for monitor in monitors} == {"45s"}
    pools = told(objects)
    assert (pools.pod_monitors, pools.pod_monitor_labels) == (True, (("release", "prometheus"),))
    assert pools.pod_monitor_interval == "45s"


def test_who_may_scrape_gateways_may_scrape_workers(helm: Helm) -> None:
    assert told(helm.objects()).scrapers == Installation(pool_key="k").scrapers
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    objects = helm.objects("--values", str(CHART / "ci/everything-values.yaml"))
    assert told(objects).scrapers == (monitoring,)
    assert named(objects, "NetworkPolicy", "roost-gateway")["spec"]["ingress"][1]["from"] == [monitoring]
    neighbour = helm.objects("--set", "networkPolicy.scrapers[0].podSelector.matchLabels.app=agent")
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "here"}}}
    assert told(neighbour).scrapers == ({**here, "podSelector": {"matchLabels": {"app": "agent"}}},)


def test_workers_are_told_the_labels_of_this_releases_gateways(helm: Helm) -> None:
    objects = helm.objects()
    gateway = named(objects, "Deployment", "roost-gateway")["spec"]
    assert dict(told(objects).gateway_labels) == gateway["selector"]["matchLabels"]
    assert set(Installation(pool_key="k").gateway_labels) < set(told(objects).gateway_labels)


def test_who_may_edit_or_view_a_namespace_may_its_pools(helm: Helm) -> None:
    mark = "rbac.authorization.k8s.io/aggregate-to-"
    verbs: dict[str, set[str]] = {}
    for role in [item for item in helm.objects() if item["kind"] == "ClusterRole"]:
        rules = [rule for rule in role["rules"] if rule["resources"][0] == "agentpools"]
        for level in [label.removeprefix(mark) for label in role["metadata"]["labels"] if label.startswith(mark)]:
            verbs.setdefault(level, set()).update(*(rule["verbs"] for rule in rules))
    assert verbs["view"] == {"get", "list", "watch"}
    assert verbs["edit"] == verbs["admin"] >= {"create", "update", "patch", "delete"}


def test_redis_keeps_every_commit_on_its_volume_and_knows_users(helm: Helm) -> None:
    objects = {(item["kind"], item["metadata"]["name"]): item for item in helm.objects()}
    configuration = objects["ConfigMap", "roost-redis"]["data"]["redis.conf"].splitlines()
    wanted = {"appendonly yes", "appendfsync always", "maxmemory-policy noeviction", "aclfile /etc/redis/users.acl"}
    assert wanted <= set(configuration)
    redis = objects["StatefulSet", "roost-redis"]["spec"]
    assert redis["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert [claim["metadata"]["name"] for claim in redis["volumeClaimTemplates"]] == ["data"]


def test_keys_that_are_given_and_the_key_that_is_drawn_have_different_secrets(helm: Helm) -> None:
    """Else Helm refuses to take over the drawn one, and deletes with its own the one that the Job found there."""
    drawn, given = helm.objects(), helm.objects("--values", str(CHART / "ci/everything-values.yaml"))
    job = pod_spec(named(drawn, "Job", "roost-secrets"))["containers"][0]["args"]
    assert "--api-keys=roost-api-keys" in job
    assert mounted_keys(drawn) == "roost-api-keys"
    (secret,) = [item["metadata"]["name"] for item in given if item["kind"] == "Secret"]
    assert secret not in [item["metadata"]["name"] for item in drawn]
    assert mounted_keys(given) == secret != "roost-api-keys"
    both = helm.objects("--values", str(CHART / "ci/everything-values.yaml"), "--set", "apiKeys.existingSecret=mine")
    assert (mounted_keys(both), [item for item in both if item["kind"] == "Secret"]) == ("mine", [])


def mounted_keys(objects: list[Manifest]) -> str:
    volumes = pod_spec(named(objects, "Deployment", "roost-gateway"))["volumes"]
    sources = [
        source["secret"]
        for volume in volumes
        for source in volume.get("projected", {}).get("sources", ())
        if "secret" in source
    ]
    return next(str(source["name"]) for source in sources if source["items"][0]["key"] == "keys.yaml")


def test_without_redis_its_urls_come_from_the_named_secret(helm: Helm) -> None:
    objects = helm.objects("--values", str(CHART / "ci/external-redis-values.yaml"))
    assert [item["metadata"]["name"] for item in objects if item["metadata"]["name"].endswith("-redis")] == []
    operator = next(item for item in objects if item["metadata"]["name"] == "roost-operator" and item["kind"] in PODS)
    environment = pod_spec(operator)["containers"][0]["env"]
    urls = [
        variable["valueFrom"]["secretKeyRef"]["name"]
        for variable in environment
        if variable["name"].endswith("STORE_URL")
    ]
    assert urls
    assert set(urls) == {"my-redis"}


def test_the_crd_is_updated_with_the_release_and_kept_when_it_goes(helm: Helm) -> None:
    crd = next(item for item in helm.objects() if item["kind"] == "CustomResourceDefinition")
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert not (CHART / "crds").exists(), "Helm never updates what is there"


def test_gateways_are_found_one_by_one(helm: Helm) -> None:
    service = next(
        item for item in helm.objects() if item["kind"] == "Service" and "gateway" in item["metadata"]["name"]
    )
    assert service["spec"]["clusterIP"] == "None"


def test_uninstalling_asks_for_pools_first(helm: Helm) -> None:
    hooks = [item for item in helm.objects() if item["kind"] == "Job" and item["metadata"]["name"] == "roost-uninstall"]
    assert [hook["metadata"]["annotations"]["helm.sh/hook"] for hook in hooks] == ["pre-delete"]
    keep = "helm rollback roost 1 --namespace here"
    assert pod_spec(hooks[0])["containers"][0]["args"] == ["refuse-pools", f"--keep={keep}"]
    notes = helm("install", "roost", str(CHART), "--namespace", "here", "--dry-run=client").partition("NOTES:")[2]
    assert keep in notes


def test_what_a_failed_job_says_is_shown_by_helm(helm: Helm) -> None:
    jobs = [item for item in helm.objects() if item["kind"] == "Job"]
    assert {job["metadata"]["annotations"]["helm.sh/hook-output-log-policy"] for job in jobs} == {"hook-failed"}


def test_the_notes_give_the_next_three_commands_and_tell_of_missing_kuberay(helm: Helm) -> None:
    notes = helm("install", "roost", str(CHART), "--namespace", "here", "--dry-run=client").partition("NOTES:")[2]
    assert "This cluster has no KubeRay" in notes
    after = notes.partition("Next:")[2]
    for command in ("kubectl apply -f pool.yaml", "kubectl get secret roost-api-keys -n here", "kubectl port-forward"):
        assert after.count(command) == 1


def test_the_notes_tell_of_pull_secrets_in_the_pools_namespaces(helm: Helm) -> None:
    install = ("install", "roost", str(CHART), "--namespace", "here", "--dry-run=client")
    assert "pull secrets" not in helm(*install)
    notes = helm(*install, "--set", "image.pullSecrets={mine,yours}").partition("NOTES:")[2]
    assert "Its namespace needs the pull secrets first: mine, yours." in notes


def test_what_helm_refuses(helm: Helm) -> None:
    assert "gatway" in helm("template", "roost", str(CHART), "--set", "gatway.replicas=1", fails=True)
    fix = helm("template", "roost", str(CHART), "--set", "redis.enabled=false", fails=True)
    assert "redis.external.existingSecret: name a Secret with the keys gateway-url" in fix
