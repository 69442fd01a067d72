"""What becomes of kernels where the system gives no more threads or memory."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from compiled_kernels import kernels, needs_compiler
from roost_worker.kernels.library import Kernels
from roost_worker.kernels.structures import PagedKv

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


# The C library may keep 64 MiB that were freed, so what is to find no memory needs more.


def test_a_product_of_rows_that_find_no_memory_is_an_error() -> None:
    product = kernels(2).pack(torch.ones(8, 4096), norm=torch.ones(4096), eps=0.0)
    rows = torch.ones(8192, 4096)
    with at_most(8 << 20), pytest.raises(MemoryError, match="roost_linear"):
        product(rows)
    assert product(rows[:9]).eq(4096).all()


def attention_over_ones(of: Kernels, head_dim: int) -> tuple[int, Callable[[], torch.Tensor]]:
    """Bytes of the output of attention to values that are all 1, and the call."""
    query = torch.zeros(12, 8, head_dim, dtype=torch.bfloat16)
    keys, values = torch.zeros(16, head_dim, dtype=query.dtype), torch.ones(16, head_dim, dtype=query.dtype)
    spans, tables = np.array([[0, len(query), 0, 0]]), np.array([0])

    def attend() -> torch.Tensor:
        kv = PagedKv(
            keys=keys.data_ptr(),
            values=values.data_ptr(),
            block_bytes=keys.nbytes,
            block_tokens=16,
            kv_heads=1,
            head_dim=head_dim,
        )
        return of.attend(query, kv, spans, tables)

    return query.nbytes, attend


def test_attention_that_finds_no_memory_is_an_error_on_whatever_thread() -> None:
    """Heads are so large that what a thread needs for a piece does not fit beside the output."""
    two = kernels(2)
    out_bytes, attend = attention_over_ones(two, 384 << 10)
    for _ in range(20):  # so that each thread takes a piece
        with at_most(out_bytes + (8 << 20)), pytest.raises(MemoryError, match="roost_attend"):
            attend()
    assert attention_over_ones(two, 64)[1]().eq(1).all()
