"""Fault points: they hit one process, and the file of a point that was reached names that process."""

import os
from pathlib import Path

import pytest

from roost import fault_points
from roost.fault_points import fault_point

POINT = "gateway.finished"


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of faults in which a paused process may go on at once."""
    monkeypatch.setattr(fault_points, "_DIRECTORY", str(tmp_path))
    (tmp_path / f"{POINT}.go").touch()
    return tmp_path


def test_a_reached_point_names_its_process_from_the_first_moment(faults: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = list[str]()
    rename = Path.rename

    def recorded(path: Path, target: Path) -> Path:
        renamed = rename(path, target)
        if renamed.name == f"{POINT}.reached":
            contents.append(renamed.read_text())
        return renamed

    monkeypatch.setattr(Path, "rename", recorded)
    (faults / POINT).write_text("pause")
    fault_point(POINT)
    assert contents == [str(os.getpid())]


def test_a_point_is_reached_when_it_is_passed_for_the_nth_time_and_once(faults: Path) -> None:
    (faults / POINT).write_text("pause:2")
    fault_point(POINT)
    assert not (faults / f"{POINT}.reached").exists()
    fault_point(POINT)
    reached = faults / f"{POINT}.reached"
    assert reached.read_text() == str(os.getpid())
    reached.unlink()
    fault_point(POINT)
    assert not reached.exists()
