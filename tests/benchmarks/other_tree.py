"""Trees of this repository to measure beside each other: this one, and those of other commits."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TREES = ROOT / ".cache" / "trees"
"""Ignored by git."""
FOLDERS = ("proto", "operator", "gateway", "worker", "tests/support")
DECISIVE = ("torch", "grpcio", "protobuf", "redis", "numpy", "uvloop")
"""Packages whose version decides speed. A tree that pins the same versions of them runs in this environment."""


@dataclass(frozen=True)
class Tree:
    """Code to measure, and the interpreter of an environment for it."""

    name: str
    path: Path
    python: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process that shall import this tree, whatever the environment has installed."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join(str(self.path / folder) for folder in FOLDERS)}


THIS_TREE = Tree("this tree", ROOT, Path(sys.executable))


def other_tree(commit: str) -> Tree:
    """Return the tree of a commit, from an archive that is kept, with an environment that its lock file allows.

    Where the decisive packages are pinned otherwise than here, the environment is made by that tree's Makefile (some
    minutes and 6 GB the first time). Ends the program when git does not know the commit.
    """
    sha = _commit_sha(commit)
    path = TREES / sha[:12]
    if not path.exists():
        _extract(sha, path)
    if pins(path / "requirements.lock") == pins(ROOT / "requirements.lock"):
        return Tree(commit, path, THIS_TREE.python)
    subprocess.run(["make", "-C", path, "venv"], check=True, stdout=sys.stderr)
    return Tree(commit, path, path / ".venv" / "bin" / "python")


def pins(lock: Path) -> dict[str, list[str]]:
    """Versions that a lock file pins of each decisive package: one, or one for each version of Python."""
    pinned = re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock.read_text(), flags=re.MULTILINE)
    return {name: sorted(version for other, version in pinned if other == name) for name in DECISIVE}


def run_benchmark(tree: Tree, file: str, *arguments: str) -> dict[str, Any]:
    """Run a tree's own benchmark and return its JSON document; everything else that it prints goes to stderr."""
    command = [str(tree.python), str(tree.path / "tests" / "benchmarks" / file), *arguments]
    done = subprocess.run(command, env=tree.environment, cwd=tree.path, stdout=subprocess.PIPE, text=True, check=True)
    *others, last = done.stdout.splitlines()
    print(*others, sep="\n", file=sys.stderr)
    document: dict[str, Any] = json.loads(last)
    return document


def _commit_sha(commit: str) -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git knows no commit {commit!r} in {ROOT}; name one of `git log`, or fetch it first")
    return done.stdout.strip()


def _extract(sha: str, path: Path) -> None:
    TREES.mkdir(parents=True, exist_ok=True)
    archive = subprocess.run(["git", "-C", ROOT, "archive", sha], stdout=subprocess.PIPE, check=True).stdout
    scratch = Path(tempfile.mkdtemp(dir=TREES))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(scratch, filter="data")
    scratch.rename(path)
