"""What the proof of the images runs, it runs as the chart's pods do."""

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Run = Callable[[str], str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a line of shell in an image that holds one script."""
    monkeypatch.syspath_prepend(str(ROOT / "images"))
    module: Any = import_module("confined")
    if not module.can_confine():
        pytest.skip("only root on Linux, with rights to mount, can confine a process")
    environment, root = tmp_path / "image", tmp_path / "root"
    (environment / "bin").mkdir(parents=True)
    root.mkdir()
    for folder in (environment, *list(environment.parents)[:-2]):
        folder.chmod(0o755)
    script = environment / "bin/interpreter"
    script.write_text(f'#!/bin/sh\nexec {Path(sys.base_prefix).resolve()}/bin/python3 "$@"\n')
    script.chmod(0o755)

    def outcome(line: str) -> str:
        command = module.confined(environment, root, ("sh", "-c", line))
        done = subprocess.run(command, env=module.ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    return outcome


def test_it_is_nobody_with_no_rights(run: Run) -> None:
    output = run("id -u; grep -E '^(CapBnd|CapEff|NoNewPrivs)' /proc/self/status; cat /proc/net/dev")
    assert output.splitlines()[0] == "65532"
    assert "CapEff:\t0000000000000000" in output
    assert "CapBnd:\t0000000000000000" in output
    assert "NoNewPrivs:\t1" in output
    assert [line.split(":")[0].strip() for line in output.splitlines() if ": " in line and "\t" not in line] == ["lo"]


def test_it_writes_nowhere_but_to_its_temporary_folder(run: Run) -> None:
    output = run("for place in / /opt/roost /usr /etc /tmp; do (echo x >$place/x) 2>/dev/null && echo $place; done")
    assert output.split() == ["/tmp"]
    assert run("touch /x /opt/roost/x").count("Read-only file system") == 2, "not only for want of rights"


def test_it_finds_the_images_programs_and_python_and_nothing_else_of_the_machine(run: Run) -> None:
    assert run("interpreter -c 'print(6 * 7)'").strip() == "42"
    assert str(ROOT) not in run(f"ls -d {ROOT} 2>/dev/null")
