"""Triton's kernels compile for the GPUs that they are for, down to machine code; that needs no GPU."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_kernels_compile(tmp_path: Path) -> None:
    """For A100 and H100. A block of threads may have 99 KB of shared memory on any GPU since A100."""
    # In a process of its own: kernels are interpreted wherever they were defined so.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-m", "triton_targets", "bf16", "80", "90"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2 * 16
    assert all(int(line.split()[1]) <= 99 << 10 for line in lines), result.stdout
