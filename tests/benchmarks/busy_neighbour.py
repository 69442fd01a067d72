"""A process that computes without pause beside what is measured."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# It ends by itself when the benchmark was killed.
_COMPUTE = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(1_000_000))"


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """One such process, with this one's cores and priority, until the context is left."""
    process = subprocess.Popen([sys.executable, "-c", _COMPUTE])
    try:
        yield
    finally:
        process.kill()
        process.wait()
