"""KubeRay: its own CRDs and ClusterRole, and the operator as a process of the host."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from roost_cluster.control_plane import answers
from roost_cluster.kubectl import Kubectl
from roost_cluster.layout import Layout
from roost_cluster.processes import Component, wait_until
from roost_cluster.services import bind_user
from roost_cluster.toolbox import Toolbox

CRD_SECONDS = 300.0
"""They are large: 3 s on an idle machine, a minute on a busy one."""


class KubeRay(Component):
    """Outside of the cluster it knows no cluster names, so that Ray's dashboards are asked through the API server."""

    name = "kuberay-operator"

    def __init__(self, layout: Layout, toolbox: Toolbox, kubectl: Kubectl) -> None:
        super().__init__(layout)
        self._binary = toolbox.path("kuberay-operator")
        self._manifests = toolbox.kuberay_manifests()
        self._kubectl = kubectl

    def command(self) -> Sequence[str | Path]:
        bases = str(self._manifests / "bases")
        self._kubectl.run("create", "--validate=false", "--filename", bases, seconds=CRD_SECONDS)
        self._kubectl.run("apply", "--filename", str(self._manifests / "role.yaml"))
        self._kubectl.apply(bind_user("kuberay-operator"))
        crds = ("crd/rayservices.ray.io", "crd/rayclusters.ray.io")
        # kubectl gives up at once on a kind that has no condition yet.
        established = ("wait", "--for=condition=Established", *crds, "--timeout=5s")
        wait_until("KubeRay's kinds", lambda: self._kubectl.succeeds(*established), 30)
        return [
            self._binary,
            "--use-kubernetes-proxy",
            "--enable-leader-election=false",
            "--metrics-addr=0",
            f"--health-probe-bind-address=127.0.0.1:{self.layout.kuberay_health_port}",
        ]

    def environment(self) -> Mapping[str, str]:
        return {"KUBECONFIG": str(self.layout.kubeconfig("kuberay"))}

    def ready(self) -> bool:
        return answers(f"http://127.0.0.1:{self.layout.kuberay_health_port}/readyz")
