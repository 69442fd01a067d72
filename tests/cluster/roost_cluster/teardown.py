"""The way down, in the order that leaves nothing behind; also after a harness that was killed."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

from roost_cluster.errors import ClusterError
from roost_cluster.host import Host, run
from roost_cluster.kubectl import Kubectl
from roost_cluster.layout import NODE, Layout
from roost_cluster.processes import start_time, stop, wait_until

PODS_SECONDS = 30.0
WORKLOADS = ("kuberay-operator", "kube-controller-manager", "kube-scheduler")
"""Stopped first, else pods come back while they are deleted."""
NODE_SERVICES = ("coredns", "kube-proxy", "kubelet")
CONTROL_PLANE = ("kube-apiserver", "etcd")
STOP_SECONDS = 5.0
API_STOP_SECONDS = 3.0


def take_down(layout: Layout, kubectl: Kubectl | None) -> None:
    """Stops what runs and takes back what was changed. `kubectl` None leaves the pods to the runtime."""
    for name in WORKLOADS:
        stop(layout, name, STOP_SECONDS)
    if kubectl is not None and kubectl.succeeds("get", "--raw=/readyz", "--request-timeout=5s"):
        with contextlib.suppress(ClusterError):  # what is left is killed below
            _delete_pods(kubectl)
    for name in NODE_SERVICES:
        stop(layout, name, STOP_SECONDS)
    for name in CONTROL_PLANE:
        stop(layout, name, API_STOP_SECONDS)
    _kill_containers(layout)
    stop(layout, "containerd", STOP_SECONDS)
    Host(layout).restore()
    shutil.rmtree(layout.state, ignore_errors=False)


def _delete_pods(kubectl: Kubectl) -> None:
    kubectl.run("delete", "pods", "--all", "--all-namespaces", "--grace-period=1", "--wait=false")
    on_node = ("get", "pods", "--all-namespaces", f"--field-selector=spec.nodeName={NODE}", "--output=name")
    wait_until("no pods on the node", lambda: not kubectl.run(*on_node).strip(), PODS_SECONDS)


def _kill_containers(layout: Layout) -> None:
    """What the kubelet left: tasks and shims of our own containerd."""
    if layout.socket.exists():
        client = ("ctr", "--address", str(layout.socket), "--namespace", "k8s.io", "tasks")
        for task in run(*client, "ls", "-q", check=False).split():
            run(*client, "kill", "--signal", "KILL", task, check=False)
    shims = _shims(layout)
    for pid, started in shims.items():
        _kill(pid, started)
    wait_until("containerd's shims gone", lambda: not _shims(layout), STOP_SECONDS)


def _shims(layout: Layout) -> dict[int, str]:
    shims = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _is_shim(folder, layout) and (started := start_time(int(folder.name))):
            shims[int(folder.name)] = started
    return shims


def _is_shim(folder: Path, layout: Layout) -> bool:
    try:
        arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "containerd-shim" in arguments[0] and str(layout.socket) in arguments


def _kill(pid: int, started: str) -> None:
    deadline = time.monotonic() + 1.0  # a shim whose task has ended leaves by itself
    while start_time(pid) == started:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.05)
