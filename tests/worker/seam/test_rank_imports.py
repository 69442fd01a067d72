"""Rank processes run where neither Ray, Redis nor gRPC is installed."""

import os
import subprocess
import sys

PROGRAM = """
import sys
for name in {absent}:
    sys.modules[name] = None
import roost_worker.seam.process_engine, roost_worker.seam.rank, roost_worker.seam.subprocess_spawner
import roost_worker.seam.thread_engine, {others}
"""


def run(absent: tuple[str, ...], others: str) -> "subprocess.CompletedProcess[str]":
    """Imports the seam and `others` in a process where `absent` cannot be imported."""
    program = PROGRAM.format(absent=absent, others=others)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


def test_a_rank_imports_no_service_library() -> None:
    result = run(("ray", "redis", "grpc", "google.protobuf"), "roost_worker.model.runner")
    assert result.returncode == 0, result.stderr


def test_the_shells_side_imports_no_torch() -> None:
    result = run(("torch", "llguidance"), "roost_worker.engine.engine")
    assert result.returncode == 0, result.stderr
