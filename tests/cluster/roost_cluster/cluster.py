"""A Kubernetes for tests: the one that KUBECONFIG names, else a real one-node cluster on this machine."""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from roost_cluster.certificates import Certificates
from roost_cluster.control_plane import ApiServer, ControllerManager, Etcd, Scheduler
from roost_cluster.errors import ClusterError
from roost_cluster.host import Host, check_machine
from roost_cluster.image import build_image
from roost_cluster.kubectl import Kubectl
from roost_cluster.kuberay import KubeRay
from roost_cluster.layout import Layout
from roost_cluster.node import Containerd, Kubelet
from roost_cluster.processes import Component
from roost_cluster.services import CoreDns, KubeProxy
from roost_cluster.teardown import take_down
from roost_cluster.toolbox import Toolbox, cache_dir

LOCK = Path("/run/lock/roost-cluster")


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a test gets. `components` is empty for a cluster that is not ours."""

    kubectl: Kubectl
    toolbox: Toolbox
    layout: Layout | None = None
    components: dict[str, Component] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether the node, its files and its processes are ours."""
        return self.layout is not None


@contextmanager
def cluster_for_tests() -> Iterator[Cluster]:
    """The cluster of KUBECONFIG when it is set, else one that lives as long as the block."""
    kubeconfig = os.environ.get("KUBECONFIG")
    if kubeconfig:
        yield existing_cluster(Path(kubeconfig))
    else:
        with one_node_cluster() as cluster:
            yield cluster


def existing_cluster(kubeconfig: Path) -> Cluster:
    """A cluster that somebody else runs; it must have KubeRay. Raises ClusterError."""
    executable = shutil.which("kubectl")
    toolbox = Toolbox()
    kubectl = Kubectl(Path(executable) if executable else toolbox.path("kubectl"), kubeconfig)
    if not kubectl.succeeds("get", "crd", "rayservices.ray.io"):
        raise ClusterError(f"KUBECONFIG={kubeconfig}: no answer, or KubeRay is not installed there")
    return Cluster(kubectl, toolbox)


@contextmanager
def one_node_cluster(layout: Layout | None = None) -> Iterator[Cluster]:
    """Brings the cluster up, and down at the end. What a killed predecessor left is taken down first.

    Needs Linux and root. Raises ClusterError naming what is missing. The logs are kept in `log_folder()`.
    """
    layout = layout or Layout()
    with _only_one():
        toolbox = Toolbox()
        if layout.state.exists():
            take_down(layout, None)
        try:
            yield _bring_up(layout, toolbox)
        finally:
            _keep_logs(layout)
            take_down(layout, _admin(layout, toolbox))


def log_folder() -> Path:
    """Where the components' logs of the last cluster are."""
    return cache_dir() / "cluster-log"


@contextmanager
def _only_one() -> Iterator[None]:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise ClusterError("a cluster of our own needs Linux and root; set KUBECONFIG to use another (with KubeRay)")
    with LOCK.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError("another cluster for tests runs on this machine; wait for its end") from None
        yield
    LOCK.unlink(missing_ok=True)


def _bring_up(layout: Layout, toolbox: Toolbox) -> Cluster:
    check_machine()
    toolbox.build_all()
    started = time.monotonic()
    for folder in (layout.state, layout.logs, layout.processes, layout.volumes):
        folder.mkdir(parents=True)
    Host(layout).change()
    Certificates(layout).make()
    kubectl = _admin(layout, toolbox)
    containerd = Containerd(layout)
    components = [
        Etcd(layout, toolbox),
        ApiServer(layout, toolbox, kubectl),
        ControllerManager(layout, toolbox, kubectl),
        Scheduler(layout, toolbox),
        containerd,
        Kubelet(layout, toolbox, kubectl),
        KubeProxy(layout, toolbox),
        CoreDns(layout, toolbox, kubectl),
        KubeRay(layout, toolbox, kubectl),
    ]
    for component in components:
        component.start()
        print(f"{time.monotonic() - started:6.1f} s  {component.name}", flush=True)
        if component is containerd:
            containerd.load_image(_image(toolbox))
    return Cluster(kubectl, toolbox, layout, {component.name: component for component in components})


def _admin(layout: Layout, toolbox: Toolbox) -> Kubectl:
    return Kubectl(toolbox.path("kubectl"), layout.kubeconfig("admin"))


def _image(toolbox: Toolbox) -> Path:
    archive = toolbox.path("kubelet").parent / "host-image.tar"
    if not archive.exists():
        build_image(archive, toolbox.pause_source())
    return archive


def _keep_logs(layout: Layout) -> None:
    if layout.logs.exists():
        shutil.rmtree(log_folder(), ignore_errors=True)
        shutil.copytree(layout.logs, log_folder())
