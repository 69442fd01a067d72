"""Which files can run where packages are missing."""

import subprocess
import sys
from pathlib import Path

import pytest
from missing_packages import ROOT, imported, is_installed, needed


def test_what_a_file_can_do_without_is_not_needed(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        "import json\n"
        "import first.part\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import typed\n"
        "try:\n    import wanted\nexcept ImportError:\n    wanted = None\n"
        "class Holder:\n    import second\n"
        "def later():\n    import lazy\n"
    )
    assert set(imported(path)) == {"json", "first.part", "typing.TYPE_CHECKING", "second"}
    assert needed(path, []) == {"first.part", "second"}


def test_what_our_modules_need_is_needed(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "__init__.py").write_text("import of_the_package\n")
    (tmp_path / "ours" / "module.py").write_text("from ours.other import name\n")
    (tmp_path / "ours" / "other.py").write_text("from ours import module\nimport of_the_module\n")
    (tmp_path / "program.py").write_text("from ours import module\n")
    assert needed(tmp_path / "program.py", []) == {"of_the_package", "of_the_module"}


def test_a_test_needs_what_its_fixtures_need(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import plugin\n")
    (tmp_path / "test_it.py").write_text("import json\n")
    (tmp_path / "program.py").write_text("import json\n")
    assert needed(tmp_path / "test_it.py", []) == {"plugin"}
    assert needed(tmp_path / "program.py", []) == set()


@pytest.mark.parametrize(
    ("name", "installed"),
    [("pytest.fixture", True), ("no_such_package", False), ("google.protobuf.message", True), ("google.none", False)],
)
def test_of_a_namespace_the_part_counts(name: str, installed: bool) -> None:
    assert is_installed(name) is installed


def test_a_bare_python_is_told_what_the_gpu_benchmark_needs() -> None:
    """Without packages (-S leaves them out) the program itself still runs."""
    program, benchmark = (ROOT / "tests" / "benchmarks" / name for name in ("missing_packages.py", "bench_gpu.py"))
    folders = ":".join(str(ROOT / folder) for folder in ("proto", "worker"))
    command = [sys.executable, "-S", str(program), str(benchmark)]
    done = subprocess.run(command, env={"PYTHONPATH": folders}, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    file, _, packages = done.stderr.strip().partition(" needs ")
    assert file == f"left out: {benchmark}"
    assert {"numpy", "safetensors", "tokenizers", "torch"} <= set(packages.split(", "))
