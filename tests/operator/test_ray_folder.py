"""What a killed stack leaves in the temporary directory goes at the next start; what a live one has there stays."""

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from roost_operator.local.ray_folder import RayFolder, remove_leftovers

OWNER = "from roost_operator.local.ray_folder import RayFolder; print(RayFolder().path, flush=True); input()"


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A temporary directory of the test's own, for its processes, too."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_folder_of_a_killed_stack_is_removed_and_that_of_a_live_one_is_not(temporary: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdin=-1, stdout=-1, text=True) as owner:
        assert owner.stdout is not None
        path = Path(owner.stdout.readline().strip())
        (path / "session").mkdir()
        remove_leftovers()
        assert path.parent == temporary
        assert (path / "session").exists()
        owner.kill()
    remove_leftovers()
    assert list(temporary.iterdir()) == []


def test_a_folder_that_an_unlocked_process_uses_stays(temporary: Path) -> None:
    """As Ray's processes do for a moment after their stack, and those of a stack of an earlier version."""
    path = Path(tempfile.mkdtemp(prefix="roost-ray-"))
    command = [sys.executable, "-c", "print(flush=True); input()", f"--temp-dir={path}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        user.stdout.readline()  # a process has no command line for a moment while it begins
        remove_leftovers()
        assert path.exists()
        user.kill()
    remove_leftovers()
    assert not path.exists()


def test_only_ray_folders_are_looked_at(temporary: Path) -> None:
    (temporary / "roost-rays").mkdir()
    (temporary / "roost-ray-file").touch()
    (temporary / "roost-ray-link").symlink_to(temporary / "roost-rays")
    remove_leftovers()
    assert {path.name for path in temporary.iterdir()} == {"roost-rays", "roost-ray-file", "roost-ray-link"}


def test_a_removed_folder_is_gone(temporary: Path) -> None:
    folder = RayFolder()
    (folder.path / "session").mkdir()
    folder.remove()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("before", [(os, "open"), (fcntl, "flock")])
def test_a_folder_that_another_start_takes_for_a_leftover_is_replaced(
    monkeypatch: pytest.MonkeyPatch, temporary: Path, before: tuple[ModuleType, str]
) -> None:
    """The other start removes it just before this one opens it, or locks it."""
    call, first = getattr(*before), []

    def late(*arguments: Any, **options: Any) -> Any:
        if not first:
            first.extend(temporary.iterdir())
            first[0].rmdir()
        return call(*arguments, **options)

    monkeypatch.setattr(*before, late)
    folder = RayFolder()
    assert first != [folder.path]
    remove_leftovers()
    assert folder.path.exists()
    folder.remove()
