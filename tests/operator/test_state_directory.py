"""The state directory: one user at a time, private secrets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from roost_operator.local.state_dir import StateDirectory, StateDirectoryError, default_state_dir


def test_a_second_user_is_refused_with_the_fix(tmp_path: Path) -> None:
    code = f"from roost_operator.local.state_dir import *; StateDirectory(Path({str(tmp_path)!r})).__enter__()"
    with StateDirectory(tmp_path):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "is in use by process" in second.stderr
    assert "--state-dir" in second.stderr
    with StateDirectory(tmp_path):
        pass


def test_an_unusable_path_is_refused_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateDirectoryError, match="--state-dir"):
        StateDirectory(tmp_path / "file").__enter__()


def test_secrets_are_private_and_stay(tmp_path: Path) -> None:
    with StateDirectory(tmp_path / "state") as state:
        first = state.secret("pool-secret")
        assert state.secret("pool-secret") == first
        assert state.secret("other") != first
    assert len(first) >= 32
    assert (tmp_path / "state" / "pool-secret").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


def test_default_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROOST_STATE", str(tmp_path))
    assert default_state_dir("team/agents") == tmp_path / "team.agents"
    monkeypatch.delenv("ROOST_STATE")
    assert default_state_dir("team/agents") == Path.home() / ".local/share/roost/team.agents"


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("ROOST_STATE", str(tmp_path))
    return tmp_path


def earlier_state(root: Path, pool: str) -> str:
    """A folder as earlier versions left it; returns its secret."""
    with StateDirectory(root / pool.replace("/", "-")) as state:
        state.write_private("gateway-1.json", json.dumps({"pools": [pool]}))
        return state.secret("redis-secret")


def test_each_pool_has_a_folder_of_its_own(root: Path) -> None:
    assert default_state_dir("a/b-c") != default_state_dir("a-b/c")


def test_a_folder_of_an_earlier_version_is_taken_over_by_its_pool(root: Path) -> None:
    secret = earlier_state(root, "a-b/c")
    assert not default_state_dir("a/b-c").exists()
    with StateDirectory(default_state_dir("a-b/c")) as state:
        assert state.secret("redis-secret") == secret
    assert [path.name for path in root.iterdir()] == ["a-b.c"]


def test_an_earlier_folder_does_not_replace_one_that_exists(root: Path) -> None:
    default_state_dir("a/b").mkdir()
    earlier_state(root, "a/b")
    assert list(default_state_dir("a/b").iterdir()) == []
    assert (root / "a-b").exists()


def test_an_earlier_folder_in_use_is_refused(root: Path) -> None:
    earlier_state(root, "a/b")
    with StateDirectory(root / "a-b"), pytest.raises(StateDirectoryError, match="in use by process"):
        default_state_dir("a/b")
    assert (root / "a-b").exists()


@pytest.mark.parametrize("text", ["", "{}"])
def test_an_earlier_folder_of_nobody_stays(root: Path, text: str) -> None:
    earlier_state(root, "a/b")
    (root / "a-b" / "gateway-1.json").write_text(text)
    assert not default_state_dir("a/b").exists()
