"""Where everything of the one-node cluster is: addresses, ports and files. Nothing here touches the machine."""

from dataclasses import dataclass
from pathlib import Path

NODE = "node0"
IMAGE = "localhost/host:1"


@dataclass(frozen=True, slots=True)
class Layout:
    """The bridge's address is at once the node's, the API server's, the kubelet's and the DNS server's, so that
    nothing of the cluster listens on a real interface. There is one such cluster per machine."""

    state: Path = Path("/var/tmp/roost-cluster")
    """Short, since containerd's socket is in it (108 bytes at most)."""
    bridge: str = "roost0"
    address: str = "10.244.0.1"
    pods: str = "10.244.0.0/24"
    first_pod: str = "10.244.0.10"
    services: str = "10.96.0.0/16"
    kubernetes_service: str = "10.96.0.1"
    api_port: int = 6443
    etcd_port: int = 2379
    etcd_peer_port: int = 2380
    dns_ready_port: int = 18181
    kuberay_health_port: int = 18082

    @property
    def socket(self) -> Path:
        return self.state / "cd.sock"

    @property
    def certificates(self) -> Path:
        return self.state / "pki"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def processes(self) -> Path:
        return self.state / "pid"

    @property
    def network(self) -> Path:
        return self.state / "cni"

    @property
    def volumes(self) -> Path:
        return self.state / "volumes"

    @property
    def undo(self) -> Path:
        """What the machine was like before."""
        return self.state / "undo.json"

    @property
    def api_url(self) -> str:
        return f"https://{self.address}:{self.api_port}"

    @property
    def etcd_url(self) -> str:
        return f"http://127.0.0.1:{self.etcd_port}"

    def kubeconfig(self, user: str) -> Path:
        return self.state / "kubeconfig" / user
