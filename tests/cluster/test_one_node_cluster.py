"""The cluster for tests is a real one: pods, names, ClusterIPs and volumes. KubeRay is shown by the pool's tests."""

import urllib.request
from typing import Any

import pytest

from roost_cluster import host_python
from roost_cluster.cluster import Cluster
from roost_cluster.layout import IMAGE
from roost_cluster.volumes import static_volume

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SERVE = "mkdir -p /tmp/w && echo hello >/tmp/w/index.html && exec /busybox httpd -f -p 8080 -h /tmp/w"


def pod(name: str, *command: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": list(command)}
    container |= spec.pop("container", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec},
    }


@pytest.fixture
def own(cluster: Cluster) -> Cluster:
    if not cluster.own:
        pytest.skip("KUBECONFIG names a cluster that has no local image")
    return cluster


def test_a_pod_answers_by_name_and_by_cluster_address(own: Cluster, namespace: str) -> None:
    kubectl, here = own.kubectl, ("--namespace", namespace)
    probe = {"readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    kubectl.apply(pod("web", "/busybox", "sh", "-c", SERVE, container=probe), service, arguments=here)
    kubectl.wait("condition=Ready", "pod/web", *here)
    assert "Linux" in kubectl.run("exec", "web", *here, "--", "/busybox", "uname", "-a")
    ask = f"until curl --silent --fail --max-time 2 http://web.{namespace}.svc.cluster.local; do sleep 0.5; done"
    client = pod(
        "client",
        "/bin/bash",
        "-c",
        ask,
        restartPolicy="Never",
        container={"volumeMounts": host_python.volume_mounts()},
        volumes=host_python.volumes(),
    )
    kubectl.apply(client, arguments=here)
    kubectl.wait("jsonpath={.status.phase}=Succeeded", "pod/client", *here)
    assert kubectl.run("logs", "client", *here).strip() == "hello"
    address = kubectl.get("service", "web", *here)["spec"]["clusterIP"]
    with urllib.request.urlopen(f"http://{address}/", timeout=5) as reply:
        assert reply.read() == b"hello\n"


def test_a_claim_gets_its_static_volume_and_an_ordinary_user_writes_it(own: Cluster, namespace: str) -> None:
    kubectl, here = own.kubectl, ("--namespace", namespace)
    assert own.layout is not None
    volume = static_volume(namespace, "data", own.layout.volumes / namespace)
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    kubectl.apply(volume)
    writer = pod(
        "writer",
        "/busybox",
        "sh",
        "-c",
        "/busybox id -u >/data/who",
        restartPolicy="Never",
        securityContext={"runAsUser": 65532, "runAsNonRoot": True},
        container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    )
    kubectl.apply(claim, writer, arguments=here)
    kubectl.wait("jsonpath={.status.phase}=Succeeded", "pod/writer", *here)
    assert (own.layout.volumes / namespace / "who").read_text().strip() == "65532"
    kubectl.run("delete", "pod/writer", "pvc/data", *here)
    kubectl.run("delete", "pv", f"{namespace}-data")


def test_a_pod_runs_this_checkout_with_the_hosts_python(own: Cluster, namespace: str) -> None:
    kubectl, here = own.kubectl, ("--namespace", namespace)
    script = "import roost, roost_gateway, sys; print(sys.prefix)"
    runs = pod(
        "python",
        host_python.python(),
        "-c",
        script,
        restartPolicy="Never",
        securityContext={"runAsUser": 65532, "runAsNonRoot": True},
        container={
            "volumeMounts": host_python.volume_mounts(),
            "env": host_python.environment(),
            "securityContext": {"readOnlyRootFilesystem": True},
        },
        volumes=host_python.volumes(),
    )
    kubectl.apply(runs, arguments=here)
    kubectl.wait("jsonpath={.status.phase}=Succeeded", "pod/python", *here)
