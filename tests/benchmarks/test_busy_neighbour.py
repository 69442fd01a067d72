"""The process that computes beside what is measured is there as long as the measurement."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from busy_neighbour import busy_neighbour

_BENCHMARK = """
import sys
from busy_neighbour import busy_neighbour
with busy_neighbour() as pid:
    print(pid, flush=True)
    sys.stdin.read()
"""


def test_it_runs_until_the_measurement_ends() -> None:
    with busy_neighbour() as pid:
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


def test_it_ends_when_the_benchmark_is_killed() -> None:
    command = [sys.executable, "-c", _BENCHMARK]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=Path(__file__).parent) as benchmark:
        assert benchmark.stdout is not None
        neighbour = psutil.Process(int(benchmark.stdout.readline()))
        os.kill(benchmark.pid, signal.SIGKILL)
    try:
        neighbour.wait()
    finally:
        if neighbour.is_running():
            neighbour.kill()
