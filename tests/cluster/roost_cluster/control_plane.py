"""etcd, the API server, the controllers and the scheduler."""

import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from roost_cluster.kubectl import Kubectl
from roost_cluster.layout import Layout
from roost_cluster.processes import Component
from roost_cluster.toolbox import Toolbox


def answers(url: str) -> bool:
    """Whether an HTTP endpoint on loopback says 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class Etcd(Component):
    """One member, without fsync: its data lives as long as the tests."""

    name = "etcd"
    stop_seconds = 3.0

    def __init__(self, layout: Layout, toolbox: Toolbox) -> None:
        super().__init__(layout)
        self._binary = toolbox.path("etcd")

    def command(self) -> Sequence[str | Path]:
        peer = f"http://127.0.0.1:{self.layout.etcd_peer_port}"
        url = self.layout.etcd_url
        return [
            self._binary,
            f"--data-dir={self.layout.state / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
        ]

    def ready(self) -> bool:
        return answers(f"{self.layout.etcd_url}/readyz")


class ApiServer(Component):
    """A real API server with RBAC and Node authorization."""

    name = "kube-apiserver"
    stop_seconds = 3.0
    """It would take a minute to end its watches."""

    def __init__(self, layout: Layout, toolbox: Toolbox, kubectl: Kubectl) -> None:
        super().__init__(layout)
        self._binary = toolbox.path("kube-apiserver")
        self._kubectl = kubectl

    def command(self) -> Sequence[str | Path]:
        keys, address = self.layout.certificates, self.layout.address
        return [
            self._binary,
            f"--etcd-servers={self.layout.etcd_url}",
            f"--bind-address={address}",
            f"--advertise-address={address}",
            f"--secure-port={self.layout.api_port}",
            f"--service-cluster-ip-range={self.layout.services}",
            "--authorization-mode=Node,RBAC",
            f"--client-ca-file={keys}/ca.crt",
            f"--tls-cert-file={keys}/apiserver.crt",
            f"--tls-private-key-file={keys}/apiserver.key",
            f"--kubelet-client-certificate={keys}/apiserver-kubelet.crt",
            f"--kubelet-client-key={keys}/apiserver-kubelet.key",
            f"--kubelet-certificate-authority={keys}/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys}/service-account.pub",
            f"--service-account-signing-key-file={keys}/service-account.key",
            "--allow-privileged=true",
            "--v=1",
        ]

    def ready(self) -> bool:
        return self._kubectl.succeeds("get", "--raw=/readyz")


class ControllerManager(Component):
    """All of Kubernetes' own controllers."""

    name = "kube-controller-manager"

    def __init__(self, layout: Layout, toolbox: Toolbox, kubectl: Kubectl) -> None:
        super().__init__(layout)
        self._binary = toolbox.path("kube-controller-manager")
        self._kubectl = kubectl

    def command(self) -> Sequence[str | Path]:
        keys = self.layout.certificates
        return [
            self._binary,
            f"--kubeconfig={self.layout.kubeconfig('controller-manager')}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--use-service-account-credentials=true",
            f"--root-ca-file={keys}/ca.crt",
            f"--service-account-private-key-file={keys}/service-account.key",
            "--v=1",
        ]

    def ready(self) -> bool:
        return self._kubectl.succeeds("get", "serviceaccount", "default", "--namespace=default")


class Scheduler(Component):
    """The default scheduler."""

    name = "kube-scheduler"

    def __init__(self, layout: Layout, toolbox: Toolbox) -> None:
        super().__init__(layout)
        self._binary = toolbox.path("kube-scheduler")

    def command(self) -> Sequence[str | Path]:
        kubeconfig = self.layout.kubeconfig("scheduler")
        return [self._binary, f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1", "--v=1"]

    def ready(self) -> bool:
        return self.log.stat().st_size > 0  # pods that stay Pending tell the rest
