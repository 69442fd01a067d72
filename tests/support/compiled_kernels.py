"""The engine's kernels for tests, compiled once per machine into the model store's folder."""

from functools import cache
from pathlib import Path

import pytest

from roost_worker.kernels.compiler import compiled, find_compiler
from roost_worker.kernels.library import Kernels

needs_compiler = pytest.mark.skipif(find_compiler({"PATH": "/usr/bin:/bin"}) is None, reason="no C++ compiler")


@cache
def library(architecture: str = "native") -> Path:
    return compiled(architecture=architecture)


def kernels(threads: int, architecture: str = "native") -> Kernels:
    return Kernels(library(architecture), threads)
