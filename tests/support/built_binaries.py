"""The programs that `make binaries` gets, for tests that are skipped where there are none."""

import shutil
from pathlib import Path

import pytest

from roost_cluster.toolbox import Toolbox


def built_binary(name: str) -> Path | None:
    """Return the program that `make binaries` built or unpacked, or None. Builds nothing."""
    return Toolbox().ready(name)


def kuberay_definitions() -> Path | None:
    """Return the folder of KubeRay's custom resource definitions, or None."""
    return Toolbox().kuberay_definitions()


def helm_or_skip() -> Path:
    """Return helm of `$ROOST_HELM`, of `make binaries`, or of PATH. Skips the test where there is none."""
    helm = built_binary("helm") or shutil.which("helm")
    if helm is None:
        pytest.skip("no helm; run `make binaries`, or set ROOST_HELM to the path of a helm")
    return Path(helm)
