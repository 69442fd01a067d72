"""The one node: containerd with its own root, state and socket, and the kubelet."""

import json
from collections.abc import Sequence
from pathlib import Path

from roost_cluster.host import run
from roost_cluster.kubectl import Kubectl
from roost_cluster.layout import IMAGE, NODE, Layout
from roost_cluster.processes import Component
from roost_cluster.toolbox import Toolbox

CONTAINERD = Path("/usr/bin/containerd")


class Containerd(Component):
    """Another containerd on the machine is not touched."""

    name = "containerd"

    def command(self) -> Sequence[str | Path]:
        # No CAP_SYS_RESOURCE in some sandboxes: processes keep their own score for the OOM killer.
        file = self.layout.state / "containerd.toml"
        state = self.layout.state / "containerd"
        file.write_text(f"""\
version = 2
root = "{state}/root"
state = "{state}/state"
[grpc]
  address = "{self.layout.socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self.layout.network}/net.d"
""")
        return [CONTAINERD, "--config", file]

    def ready(self) -> bool:
        return bool(self.layout.socket.exists() and self.ctr("version", check=False))

    def ctr(self, *arguments: str, check: bool = True) -> str:
        """What containerd's own client says."""
        return run("ctr", "--address", str(self.layout.socket), "--namespace", "k8s.io", *arguments, check=check)

    def load_image(self, archive: Path) -> None:
        """Imports the local image; there is no registry."""
        self.ctr("image", "import", str(archive))


class Kubelet(Component):
    """The real kubelet; it runs what the scheduler gives the node."""

    name = "kubelet"
    ready_seconds = 90.0

    def __init__(self, layout: Layout, toolbox: Toolbox, kubectl: Kubectl) -> None:
        super().__init__(layout)
        self._binary = toolbox.path("kubelet")
        self._kubectl = kubectl

    def command(self) -> Sequence[str | Path]:
        file = self.layout.state / "kubelet.json"
        file.write_text(json.dumps(self._configuration(), indent=1))
        return [
            self._binary,
            f"--kubeconfig={self.layout.kubeconfig('kubelet')}",
            f"--config={file}",
            f"--root-dir={self.layout.state / 'kubelet'}",
            f"--node-ip={self.layout.address}",
            f"--hostname-override={NODE}",
            "--v=1",
        ]

    def ready(self) -> bool:
        return self._kubectl.succeeds("wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=1s")

    def _configuration(self) -> dict[str, object]:
        keys = self.layout.certificates
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "containerRuntimeEndpoint": f"unix://{self.layout.socket}",
            "address": self.layout.address,
            "tlsCertFile": f"{keys}/kubelet-serving.crt",
            "tlsPrivateKeyFile": f"{keys}/kubelet-serving.key",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{keys}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "clusterDNS": [self.layout.address],
            "clusterDomain": "cluster.local",
            "podLogsDir": str(self.layout.state / "podlogs"),
            "oomScoreAdj": 0,
            "failSwapOn": False,
            # The local image is the only one; it must not be collected when the disk fills.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "200Mi", "nodefs.available": "2%", "imagefs.available": "2%"},
        }
