"""The note of which tree passed e2e: it holds for exactly the files that only e2e judges."""

import subprocess
from pathlib import Path

import pytest

from roost_cluster import passed
from roost_cluster.errors import ClusterError

NOTE = Path("tests/cluster/PASSED")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a file in a judged folder, and one elsewhere."""
    monkeypatch.delenv("KUBECONFIG", raising=False)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for name in ("operator/plan.py", "gateway/steps.py", "tests/cluster/conftest.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
    return tmp_path


def note(clone: Path) -> str:
    return passed.write(passed.tree(clone), clone)


def test_a_tree_that_passed_is_known_until_a_judged_file_changes(clone: Path) -> None:
    assert not passed.has_passed(clone)
    assert "commit it" in note(clone)
    assert passed.has_passed(clone)
    (clone / "gateway/steps.py").write_text("x = 2\n")
    assert passed.has_passed(clone), "smoke tests are enough for this one"
    (clone / "operator/plan.py").write_text("x = 2\n")
    assert not passed.has_passed(clone)


@pytest.mark.parametrize("name", ["operator/new.py", "charts/roost/values.yaml", "requirements.lock"])
def test_a_new_file_is_a_change_before_it_is_committed(clone: Path, name: str) -> None:
    note(clone)
    (clone / name).parent.mkdir(parents=True, exist_ok=True)
    (clone / name).write_text("")
    assert not passed.has_passed(clone)


def test_a_removed_file_is_a_change(clone: Path) -> None:
    note(clone)
    (clone / "operator/plan.py").unlink()
    assert not passed.has_passed(clone)


def test_nothing_is_noted_when_files_were_changed_while_the_tests_ran(clone: Path) -> None:
    before = passed.tree(clone)
    (clone / "operator/plan.py").write_text("x = 2\n")
    assert "were changed" in passed.write(before, clone)
    assert not (clone / NOTE).exists()


def test_nothing_is_noted_on_a_cluster_of_somebody_else(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/somewhere")
    assert "KUBECONFIG" in note(clone)
    assert not (clone / NOTE).exists()


def test_without_git_the_error_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(ClusterError, match="use a clone"):
        passed.tree(tmp_path)
