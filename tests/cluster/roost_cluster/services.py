"""What makes Services work: kube-proxy and CoreDNS, both as processes of the host."""

import json
from collections.abc import Sequence
from pathlib import Path

from roost_cluster.control_plane import answers
from roost_cluster.kubectl import Kubectl
from roost_cluster.layout import NODE, Layout
from roost_cluster.processes import Component
from roost_cluster.toolbox import Toolbox

COREDNS_RULES = [
    {"apiGroups": [""], "resources": ["services", "pods", "namespaces", "endpoints"], "verbs": ["list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
]


def bind_user(name: str) -> dict[str, object]:
    """Gives the user `name` the ClusterRole of the same name."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"{name}-user"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    }


class KubeProxy(Component):
    """Services by iptables. NodePorts are on the bridge's address only, else it would set route_localnet."""

    name = "kube-proxy"

    def __init__(self, layout: Layout, toolbox: Toolbox) -> None:
        super().__init__(layout)
        self._binary = toolbox.path("kube-proxy")

    def command(self) -> Sequence[str | Path]:
        file = self.layout.state / "kube-proxy.json"
        document = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(self.layout.kubeconfig("proxy"))},
            "clusterCIDR": self.layout.pods,
            "hostnameOverride": NODE,
            "bindAddress": self.layout.address,
            "nodePortAddresses": [f"{self.layout.address}/32"],
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "oomScoreAdj": 0,
            # 0 leaves the machine's own settings.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        file.write_text(json.dumps(document, indent=1))
        return [self._binary, f"--config={file}", "--v=1"]

    def ready(self) -> bool:
        return answers("http://127.0.0.1:10249/healthz")


class CoreDns(Component):
    """Cluster names, and those of the host's resolver; built with seven plugins."""

    name = "coredns"

    def __init__(self, layout: Layout, toolbox: Toolbox, kubectl: Kubectl) -> None:
        super().__init__(layout)
        self._binary = toolbox.path("coredns")
        self._kubectl = kubectl

    def command(self) -> Sequence[str | Path]:
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "coredns"},
            "rules": COREDNS_RULES,
        }
        self._kubectl.apply(role, bind_user("coredns"))
        file = self.layout.state / "Corefile"
        file.write_text(f"""\
.:53 {{
  bind {self.layout.address}
  errors
  ready 127.0.0.1:{self.layout.dns_ready_port}
  cache 5
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {self.layout.kubeconfig("coredns")}
    fallthrough in-addr.arpa
    ttl 5
  }}
  forward . /etc/resolv.conf
}}
""")
        return [self._binary, "-conf", file]

    def ready(self) -> bool:
        return answers(f"http://127.0.0.1:{self.layout.dns_ready_port}/ready")
