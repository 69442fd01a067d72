"""Go programs, built from the module proxy at the versions that a go.mod pins."""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from roost_cluster.errors import ClusterError

BUILD_SECONDS = 3600
FLAGS = ("-gcflags=all=-dwarf=false",)
"""Nobody debugs these programs: compiling without debug information takes a fifth less CPU time (KubeRay: 165 s
instead of 209 s, Go 1.26.8)."""


def build(module: Path, packages: Mapping[str, str], folder: Path, link_flags: str) -> None:
    """Build `packages` (program → package, seen from `module`) into `folder`, each whole or not at all.

    Raises ClusterError with the compiler's words.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as scratch:
        link = f"-ldflags=-s -w {link_flags}".rstrip()
        _go(module, "build", "-o", f"{scratch}/", *FLAGS, link, *packages.values())
        for program, package in packages.items():
            (Path(scratch) / _output(package)).rename(folder / program)


def module(folder: Path, name: str) -> Path:
    """Return the folder of a module's source, at the version that `folder`'s go.mod pins. Raises ClusterError."""
    _go(folder, "mod", "download", name)
    return Path(_go(folder, "list", "-m", "-f", "{{.Dir}}", name).strip())


def _output(package: str) -> str:
    """What `go build` calls a package's program: the path's last part that is no major version."""
    *before, last = package.split("/")
    return before[-1] if last[:1] == "v" and last[1:].isdigit() else last


def _go(folder: Path, *arguments: str) -> str:
    if shutil.which("go") is None:
        raise ClusterError("go is missing: install Go 1.26 or newer, or set KUBECONFIG to use a cluster of your own")
    done = subprocess.run(
        ["go", *arguments], cwd=folder, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    if done.returncode:
        raise ClusterError(f"go {' '.join(arguments)} in {folder} failed:\n{done.stderr[-2000:]}")
    return done.stdout
