"""A process that computes without pause beside what is measured."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_COMPUTE = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(1_000_000))"
"""Ends by itself when the benchmark was killed."""


@contextmanager
def busy_neighbour() -> Iterator[int]:
    """One such process, with this one's cores and priority, until the context is left. Yields its process id."""
    process = subprocess.Popen([sys.executable, "-c", _COMPUTE, str(os.getpid())])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
