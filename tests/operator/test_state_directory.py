"""The state directory: one user at a time, private secrets."""

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
    assert default_state_dir("team/agents") == tmp_path / "team-agents"
    monkeypatch.delenv("ROOST_STATE")
    assert default_state_dir("team/agents") == Path.home() / ".local/share/roost/team-agents"
