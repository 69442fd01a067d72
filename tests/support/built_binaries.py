"""Where the binaries are that `python -m roost_cluster build` makes, and Helm, which may also be the machine's."""

import os
import shutil
from pathlib import Path

import pytest

_CACHE = Path(os.environ.get("ROOST_CACHE") or "~/.cache/roost").expanduser() / "cluster-bin"


def built_binary(name: str) -> Path | None:
    """That in $ROOST_CLUSTER_BIN, or the one that was built last; None: there is none."""
    folder = os.environ.get("ROOST_CLUSTER_BIN")
    if folder:
        found = [Path(folder) / name]
    else:
        found = sorted(_CACHE.glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found and found[-1].exists() else None


def helm_or_skip() -> Path:
    """helm of `$ROOST_HELM`, of PATH, or built. Skips the test where there is none."""
    found = os.environ.get("ROOST_HELM") or shutil.which("helm") or built_binary("helm")
    if found is None:
        pytest.skip("no helm; set ROOST_HELM, or build it: PYTHONPATH=tests/cluster python -m roost_cluster build")
    return Path(found)
