"""Which tree passed all of `make e2e` last: a hash of everything that only those tests judge, in a committed file."""

import hashlib
import os
import subprocess
from pathlib import Path

from roost_cluster.errors import ClusterError

ROOT = Path(__file__).parents[3]
FILE = ROOT / "tests/cluster/PASSED"
JUDGED = (
    *("operator", "charts", "manifests", "images", "tests/cluster", "requirements.lock", "Makefile"),
    "worker/roost_worker/serve_app.py",
    "worker/roost_worker/seam/ray_spawner.py",
    "worker/roost_worker/server/pre_stop.py",
    "gateway/roost_gateway/step/migration.py",
)
"""Folders and files whose change must not land without e2e: what smoke tests do not show."""


def tree(root: Path = ROOT) -> str:
    """Return the hash of the judged files' names and contents, as they are now. Raises ClusterError without git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *JUDGED]
    listing = subprocess.run(command, cwd=root, capture_output=True, check=False)
    if listing.returncode:
        raise ClusterError(f"the tree's files cannot be listed: {listing.stderr.decode().strip()}; use a clone")
    digest = hashlib.sha256()
    for name in sorted(name for name in listing.stdout.decode().split("\0") if name):
        file = root / name
        if file.is_file() and file != root / FILE.relative_to(ROOT):
            digest.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def has_passed(root: Path = ROOT) -> bool:
    """Whether the tree as it is now is the one that passed last. Raises ClusterError without git."""
    file = root / FILE.relative_to(ROOT)
    return file.exists() and file.read_text().split()[-1:] == [tree(root)]


def write(before: str, root: Path = ROOT) -> str:
    """Note that the tree with hash `before` has passed. Return what to tell whoever ran it.

    Nothing is written when the tree was changed while the tests ran, or when they ran on a cluster of somebody else,
    where those that need a local image are skipped.
    """
    if os.environ.get("KUBECONFIG"):
        return "PASSED is left as it is: the cluster of KUBECONFIG runs a part of the tests only"
    if before != tree(root):
        return "PASSED is left as it is: files were changed while the tests ran"
    (root / FILE.relative_to(ROOT)).write_text(
        f"# Written by `make e2e`: the hash of the tree that passed it.\n{before}\n"
    )
    return "PASSED is written; commit it with the change"
