"""What becomes of kernels where the system gives no more threads or memory."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from compiled_kernels import kernels, needs_compiler

STATM = Path("/proc/self/statm")

pytestmark = [needs_compiler, pytest.mark.skipif(not STATM.exists(), reason="not Linux")]


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """This process may map `more` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(STATM.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_fewer_threads_than_asked_for_do_the_work() -> None:
    kernels(2)  # compiled, with a child process
    with at_most(32 << 20):
        few = kernels(500)
    assert 1 <= few.threads < 500
    product = few.pack(torch.ones(160, 16), norm=torch.ones(16), eps=0.0)
    for _ in range(100):
        assert product(torch.ones(20, 16)).eq(16).all()


def test_a_weight_that_finds_no_memory_is_an_error() -> None:
    two, weight = kernels(2), torch.ones(4096, 4096)
    with at_most(32 << 20), pytest.raises(MemoryError, match="67108864 bytes"):
        two.pack(weight)
    assert two.pack(weight)(torch.ones(1, 4096)).eq(4096).all()
