"""What the cluster changes on the machine besides starting processes: bridge, route, sysctls, and the way back."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from roost_cluster.errors import ClusterError
from roost_cluster.layout import Layout

SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
    "vm.overcommit_memory",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
)
"""Set by us or by the kubelet."""
FOLDERS = (
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/containers",
    "/var/log/pods",
    "/run/containerd",
    "/run/netns",
    "/run/mount",
)
"""Made by the kubelet, containerd and the CNI plugins outside of our state; removed if they were not there before."""
PROGRAMS = ("containerd", "ctr", "runc", "iptables", "ip6tables", "conntrack", "ip", "openssl", "gcc", "busybox")
PACKAGES = (
    "containerd runc containernetworking-plugins iptables conntrack iproute2 openssl gcc libc6-dev busybox-static"
)
RULES = ("KUBE-", "CNI-")
"""Marks of the firewall rules of kube-proxy, kubelet and the CNI plugins."""


def run(*command: str, check: bool = True, stdin: str | None = None) -> str:
    """Output of a short command. Raises ClusterError with what it said."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def firewall(family: str) -> list[str]:
    """Lines of the rules that `iptables` or `ip6tables` holds."""
    return run(f"{family}-save").splitlines()


def foreign_rules() -> list[str]:
    """Rules of another Kubernetes on this machine; ours have been taken back before this is asked."""
    return [line for family in ("iptables", "ip6tables") for line in firewall(family) if _ours(line)]


def check_machine() -> None:
    """Raises ClusterError naming what is missing, or what is in the way."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or not Path("/usr/lib/cni/bridge").exists():
        raise ClusterError(
            f"{', '.join(missing) or 'CNI plugins'} missing: apt-get install --no-install-recommends {PACKAGES}; "
            f"or set KUBECONFIG to use a cluster of your own"
        )
    if foreign_rules():
        raise ClusterError("this machine has firewall rules of another Kubernetes; set KUBECONFIG to use that one")


class Host:
    """Bridge, route and sysctls."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def change(self) -> None:
        """Makes the bridge first: its address is the node's. What was before is written down first of all."""
        sysctls = {name: value for name in SYSCTLS if (value := _sysctl(name)) is not None}
        folders = [folder for folder in FOLDERS if not Path(folder).exists()]
        self._layout.undo.write_text(json.dumps({"sysctls": sysctls, "folders": folders}))
        bridge, address = self._layout.bridge, self._layout.address
        run("ip", "link", "add", bridge, "type", "bridge")
        run("ip", "addr", "add", f"{address}/24", "dev", bridge)
        run("ip", "link", "set", bridge, "up")
        run("ip", "route", "replace", self._layout.services, "dev", bridge, "src", address)
        for name in ("net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables"):
            if _sysctl(name) is not None:
                run("sysctl", "-qw", f"{name}=1")
        self._write_cni()

    def restore(self) -> None:
        """Takes everything back; may be called again and on what is half there."""
        self._unmount()
        self._remove_namespaces()
        run("ip", "link", "del", self._layout.bridge, check=False)
        for family in ("iptables", "ip6tables"):
            _clean_firewall(family)
        _remove_cgroups()
        self._restore_files()

    def _write_cni(self) -> None:
        ranges = [
            [{"subnet": self._layout.pods, "rangeStart": self._layout.first_pod, "gateway": self._layout.address}]
        ]
        addresses = {
            "type": "host-local",
            "dataDir": str(self._layout.network / "ipam"),
            "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": ranges,
        }
        bridge = {
            "type": "bridge",
            "bridge": self._layout.bridge,
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": addresses,
        }
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        folder = self._layout.network / "net.d"
        folder.mkdir(parents=True)
        document = {"cniVersion": "1.0.0", "name": "roost", "plugins": [bridge, ports]}
        (folder / "10-roost.conflist").write_text(json.dumps(document))

    def _unmount(self) -> None:
        prefix = f"{self._layout.state}/"
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((mount for mount in mounts if mount.startswith(prefix)), reverse=True):
            run("umount", "-l", mount, check=False)

    def _remove_namespaces(self) -> None:
        prefix = self._layout.pods.rpartition(".")[0] + "."
        for namespace in Path("/run/netns").glob("cni-*"):
            if f" {prefix}" in run("nsenter", f"--net={namespace}", "ip", "-4", "addr", check=False):
                run("umount", str(namespace), check=False)
                namespace.unlink()

    def _restore_files(self) -> None:
        if not self._layout.undo.exists():
            return
        before = json.loads(self._layout.undo.read_text())
        for name, value in before["sysctls"].items():
            if _sysctl(name) != value:
                run("sysctl", "-qw", f"{name}={value}")
        for folder in before["folders"]:
            shutil.rmtree(folder, ignore_errors=True)


def _sysctl(name: str) -> str | None:
    file = Path("/proc/sys") / name.replace(".", "/")
    return file.read_text().strip() if file.exists() else None


def _ours(line: str) -> bool:
    return any(mark in line for mark in RULES)


def _clean_firewall(family: str) -> None:
    lines = firewall(family)
    kept = [line for line in lines if not _ours(line)]
    if kept != lines:
        run(f"{family}-restore", stdin="\n".join(kept) + "\n")


def _remove_cgroups() -> None:
    roots = [path for pattern in ("*/kubepods", "kubepods") for path in Path("/sys/fs/cgroup").glob(pattern)]
    for root in roots:
        folders: Sequence[Path] = [path for path in root.rglob("*") if path.is_dir()]
        for folder in (*sorted(folders, reverse=True), root):
            folder.rmdir()
