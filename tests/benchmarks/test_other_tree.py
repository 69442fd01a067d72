"""Which environment the tree of another commit runs in."""

from pathlib import Path

import pytest
from other_tree import DECISIVE, ROOT, THIS_TREE, other_tree, pins


def test_decisive_packages_are_in_the_lock() -> None:
    assert all(versions for versions in pins(ROOT / "requirements.lock").values())


def test_only_decisive_packages_count(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "torch==2.15.0 \\\n    --hash=x\ntorchvision==1.0\nnumpy==1 ; python_version < '3.12' \\\nnumpy==2\n"
    )
    assert pins(lock) == {name: [] for name in DECISIVE} | {"torch": ["2.15.0"], "numpy": ["1", "2"]}


def test_an_unknown_commit_is_refused() -> None:
    with pytest.raises(SystemExit, match="git knows no commit 'no-such-commit'"):
        other_tree("no-such-commit")


def test_processes_import_the_tree_before_what_is_installed() -> None:
    assert THIS_TREE.environment["PYTHONPATH"].split(":")[0] == str(ROOT / "proto")
