"""The binaries, built from the Go module proxy at the versions that tools/*/go.mod pin, once per change of these files.

`ROOST_CLUSTER_BIN` names a folder to use instead of the cache; what is missing in it is built into it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from roost_cluster.errors import ClusterError

TOOLS = Path(__file__).parents[1] / "tools"
BUILD_SECONDS = 1800
_VERSION = "k8s.io/component-base/version"
KUBERNETES_FLAGS = f"-X {_VERSION}.gitVersion=v1.36.3 -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=36"


@dataclass(frozen=True, slots=True)
class Tool:
    """One binary: the folder of its go.mod, and the package in it."""

    folder: str
    package: str
    link_flags: str = ""


TOOLBOX: Mapping[str, Tool] = {
    **{
        name: Tool("kubernetes", f"k8s.io/kubernetes/cmd/{name}", KUBERNETES_FLAGS)
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
    },
    "etcd": Tool("etcd", "go.etcd.io/etcd/server/v3"),
    "coredns": Tool("coredns", "."),
    "kuberay-operator": Tool("kuberay", "github.com/ray-project/kuberay/ray-operator"),
    "helm": Tool("helm", "helm.sh/helm/v4/cmd/helm"),
}
CLUSTER_TOOLS = tuple(name for name in TOOLBOX if name != "helm")
"""What a cluster needs; helm is a client of it."""
KUBERAY_MANIFESTS = ("config/crd/bases", "config/rbac/role.yaml")
"""Parts of KubeRay's module that the cluster applies; kept beside the binary."""


class Toolbox:
    """Gives paths of binaries, building what is not there."""

    def __init__(self, override: Path | None = None) -> None:
        configured = os.environ.get("ROOST_CLUSTER_BIN")
        self._override = override or (Path(configured) if configured else None)

    def path(self, name: str) -> Path:
        """The binary called `name`. Raises ClusterError when it cannot be built."""
        tool = TOOLBOX[name]
        binary = self._folder(tool.folder) / name
        if not binary.exists():
            with _locked(binary.parent):
                if not binary.exists():
                    _build(tool, binary)
        return binary

    def kuberay_manifests(self) -> Path:
        """A folder with KubeRay's own CRDs and ClusterRole: `bases/` and `role.yaml`."""
        folder = self._folder("kuberay") / "kuberay-manifests"
        if not folder.exists():
            with _locked(folder.parent):
                if not folder.exists():
                    _copy_kuberay(folder)
        return folder

    def pause_source(self) -> Path:
        """The source of the sandbox process, from Kubernetes' own module."""
        return _module("kubernetes", "k8s.io/kubernetes") / "build/pause/linux/pause.c"

    def build_all(self, names: Iterable[str]) -> None:
        """Builds what is not there, and says how long it took. Raises ClusterError."""
        for name in names:
            started = time.monotonic()
            self.path(name)
            if (seconds := time.monotonic() - started) > 1:
                print(f"built {name} in {seconds:.0f} s", flush=True)
        self.kuberay_manifests()

    def _folder(self, folder: str) -> Path:
        if self._override is not None:
            return self._override
        return cache_dir() / "cluster-bin" / f"{folder}-{_digest(TOOLS / folder)}"


def cache_dir() -> Path:
    """`$ROOST_CACHE`, else `~/.cache/roost`."""
    return Path(os.environ.get("ROOST_CACHE") or Path.home() / ".cache/roost")


def _digest(folder: Path) -> str:
    digest = hashlib.sha256(KUBERNETES_FLAGS.encode())
    for file in sorted(folder.iterdir()):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(tool: Tool, binary: Path) -> None:
    part = binary.with_suffix(".part")
    _go(tool.folder, "build", "-o", str(part), "-ldflags", f"-s -w {tool.link_flags}", tool.package)
    part.rename(binary)


def _copy_kuberay(folder: Path) -> None:
    module = _module("kuberay", "github.com/ray-project/kuberay/ray-operator")
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    crds, role = KUBERAY_MANIFESTS
    shutil.copytree(module / crds, part / "bases", copy_function=shutil.copyfile)
    shutil.copyfile(module / role, part / "role.yaml")
    part.rename(folder)


def _module(folder: str, module: str) -> Path:
    _go(folder, "mod", "download", module)
    return Path(_go(folder, "list", "-m", "-f", "{{.Dir}}", module).strip())


def _go(folder: str, *arguments: str) -> str:
    if shutil.which("go") is None:
        raise ClusterError("go is missing: install Go 1.26 or newer, or set KUBECONFIG to use a cluster of your own")
    done = subprocess.run(
        ["go", *arguments], cwd=TOOLS / folder, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    if done.returncode:
        raise ClusterError(f"go {' '.join(arguments)} in {TOOLS / folder} failed:\n{done.stderr[-2000:]}")
    return done.stdout
