"""Writes what is made from other files: the chart's copy of the CRD, and manifests/roost.yaml from the chart.

`python charts/generate.py [--check]`; helm comes from `$ROOST_HELM` or PATH, or is built (tests/cluster). `--check`
writes nothing and exits with 1 when a file is stale. `--no-helm` leaves manifests/roost.yaml out.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts/roost"
NAMESPACE = "roost-system"
HEADER = f"""\
# Roost in namespace {NAMESPACE}, for `kubectl apply --server-side -f` where Helm is not wanted.
# Generated from charts/roost with its default values by charts/generate.py; do not edit.
"""
_HOOKS_LEFT_OUT = ("pre-delete", "test")
"""Guards of `helm uninstall` and `helm test` have no counterpart in a plain file."""


def crd_copies() -> dict[Path, str]:
    """Helm reads nothing outside of its chart."""
    return {CHART / "files/crds" / path.name: path.read_text() for path in (ROOT / "manifests/crds").glob("*.yaml")}


def plain_manifest(helm: Path) -> str:
    """The chart's objects as one file. Raises CalledProcessError when the chart does not render."""
    command = [str(helm), "template", "roost", str(CHART), "--namespace", NAMESPACE]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    objects = [document for document in yaml.safe_load_all(rendered) if document]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    plain = [namespace, *(_plain(document) for document in objects if not _left_out(document))]
    plain.sort(key=lambda document: {"Namespace": 0, "CustomResourceDefinition": 1}.get(document["kind"], 2))
    return HEADER + "".join("---\n" + yaml.safe_dump(document, sort_keys=False, width=120) for document in plain)


def _left_out(document: dict[str, Any]) -> bool:
    return _annotations(document).get("helm.sh/hook") in _HOOKS_LEFT_OUT


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """Without Helm's marks."""
    metadata = document["metadata"]
    kept = {name: value for name, value in _annotations(document).items() if not name.startswith("helm.sh/")}
    metadata.pop("annotations", None)
    if kept:
        metadata["annotations"] = kept
    for labels in _labels(document):
        labels.pop("helm.sh/chart", None)
        if "app.kubernetes.io/managed-by" in labels:
            labels["app.kubernetes.io/managed-by"] = "kubectl"
    return document


def _annotations(document: dict[str, Any]) -> dict[str, str]:
    return document["metadata"].get("annotations") or {}


def _labels(document: dict[str, Any]) -> list[dict[str, str]]:
    template = document.get("spec", {}).get("template", {}).get("metadata", {})
    return [metadata["labels"] for metadata in (document["metadata"], template) if "labels" in metadata]


def find_helm() -> Path:
    """helm of `$ROOST_HELM`, of PATH, or built from the Go module at its pinned version."""
    found = os.environ.get("ROOST_HELM") or shutil.which("helm")
    if found:
        return Path(found)
    sys.path.insert(0, str(ROOT / "tests/cluster"))
    from roost_cluster.toolbox import Toolbox

    return Toolbox().path("helm")


def main() -> int:
    """Exit status 1 when `--check` finds a stale file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--no-helm", action="store_true")
    arguments = parser.parse_args()
    stale = _update(crd_copies(), arguments.check)
    if not arguments.no_helm:  # after the copies, which the chart holds
        stale += _update({ROOT / "manifests/roost.yaml": plain_manifest(find_helm())}, arguments.check)
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is stale; run make generate' if arguments.check else 'written'}")
    return 1 if stale and arguments.check else 0


def _update(files: dict[Path, str], check: bool) -> list[Path]:
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if not check:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path])
    return stale


if __name__ == "__main__":
    sys.exit(main())
