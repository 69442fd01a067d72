"""The kernels' threads, seen through the smallest kernel, and the norm itself."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from compiled_kernels import kernels, needs_compiler
from roost_worker.kernels.compiler import NoKernelsError, compiled
from roost_worker.kernels.library import DTYPES, Kernels

pytestmark = needs_compiler


@pytest.fixture(scope="module", name="kernels", params=(1, 2, 5))
def _kernels(request: pytest.FixtureRequest) -> Kernels:
    return kernels(request.param)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 64])
@pytest.mark.parametrize("size", [1, 16, 40, 576])
def test_norm_is_torchs(kernels: Kernels, dtype: torch.dtype, rows: int, size: int) -> None:
    x, weight = torch.randn(rows, size).to(dtype), torch.randn(size).to(dtype)
    expected = functional.rms_norm(x.double(), (size,), weight.double(), 1e-5)
    torch.testing.assert_close(kernels.rms_norm(x, weight, 1e-5).double(), expected, rtol=2**-7, atol=1e-5)


def test_every_piece_is_done_once_whatever_helpers_do(kernels: Kernels) -> None:
    """Many short jobs, so that helpers wake late, on time and not at all."""
    weight = torch.ones(16)
    for rows in torch.randint(1, 9, (3000,)).tolist():
        out = kernels.rms_norm(torch.ones(rows, 16), weight, 0.0)
        assert out.eq(1).all()


def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(NoKernelsError, match=r"install one of c\+\+"):
        compiled(tmp_path, {"PATH": str(tmp_path)})


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho of no use >&2\n[ $1 = --version ]\n")
    compiler.chmod(0o755)
    with pytest.raises(NoKernelsError, match="of no use"):
        compiled(tmp_path / "cache", {"PATH": "/usr/bin:/bin", "CXX": str(compiler)})
    assert not list((tmp_path / "cache").glob("*.so"))
