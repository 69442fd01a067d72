"""Kernels are compiled once; where they cannot be, the error says what to do."""

import os
import shutil
from pathlib import Path

import pytest

from roost_worker.kernels.compiler import NoKernelsError, compiled
from roost_worker.kernels.library import Kernels


def test_a_machine_without_a_compiler_hears_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(NoKernelsError, match=r"install one of c\+\+"):
        compiled(tmp_path, {"PATH": str(tmp_path)})


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    compiler = _script(tmp_path / "broken", "echo of no use >&2; [ $1 = --version ]")
    with pytest.raises(NoKernelsError, match="of no use"):
        compiled(tmp_path / "cache", {"PATH": "/usr/bin:/bin", "CXX": str(compiler)})
    assert not list((tmp_path / "cache").glob("*.so"))


def test_a_library_is_compiled_once_for_a_processor(tmp_path: Path) -> None:
    """By a compiler that writes its first argument to its last one, the library, and into a list of calls."""
    write = f'for last; do :; done; echo "$1" | tee -a {tmp_path}/calls >$last'
    compiler = _script(tmp_path / "compiler", f"[ $1 = --version ] && exit; {write}")
    environment = {"PATH": "/usr/bin:/bin", "CXX": str(compiler)}
    first = compiled(tmp_path / "cache", environment)
    assert compiled(tmp_path / "cache", environment) == first
    other = compiled(tmp_path / "cache", environment, architecture="other")
    assert other != first
    assert (tmp_path / "calls").read_text() == "-march=native\n-march=other\n"


@pytest.mark.parametrize("folder", ["file/kernels", "too-long" * 50], ids=["not a folder", "cannot be looked into"])
def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    compiler = _script(tmp_path / "compiler", "exit 0")
    with pytest.raises(NoKernelsError, match=rf"{folder} cannot be used: .*\$ROOST_CACHE"):
        compiled(tmp_path / folder, {"PATH": "/usr/bin:/bin", "CXX": str(compiler)})


def test_a_library_in_a_folder_that_cannot_be_written_is_used(tmp_path: Path) -> None:
    """As in an image: a second process neither locks nor writes."""
    compiler = _script(tmp_path / "compiler", "[ $1 = --version ] && exit; for last; do :; done; echo library >$last")
    environment = {"PATH": "/usr/bin:/bin", "CXX": str(compiler)}
    library = compiled(tmp_path / "cache", environment)
    (tmp_path / "cache" / ".lock").unlink()
    (tmp_path / "cache" / ".lock").mkdir()  # cannot be opened, by root neither
    assert compiled(tmp_path / "cache", environment) == library


def test_a_library_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[bytes, int]] = []

    def fsync(file: int) -> None:
        synced.append((os.pread(file, 100, 0), len(list((tmp_path / "cache").glob("*.so")))))

    monkeypatch.setattr(os, "fsync", fsync)
    compiler = _script(tmp_path / "compiler", "[ $1 = --version ] && exit; for last; do :; done; echo library >$last")
    compiled(tmp_path / "cache", {"PATH": "/usr/bin:/bin", "CXX": str(compiler)})
    assert synced == [(b"library\n", 0)]


def test_a_library_that_does_not_load_leaves_torch_to_work(tmp_path: Path) -> None:
    library = tmp_path / "kernels.so"
    shutil.copy(__file__, library)
    with pytest.raises(NoKernelsError, match=r"kernels\.so"):
        Kernels(library, 1)


def _script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path
