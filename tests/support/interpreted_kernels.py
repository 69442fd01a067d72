"""Triton's kernels: compiled on GPUs, else in its interpreter. Import it before what imports the kernels."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read where a kernel is defined
interpreter = pytest.importorskip("triton.runtime.interpreter")

interpreted = pytest.mark.skipif(
    DEVICE.type != "cpu", reason="its tensors are on the CPU, where kernels are interpreted"
)


@contextmanager
def products_by_rows() -> Iterator[None]:
    """Each row of a tile is multiplied alike, as tensor cores do. The interpreter's BLAS multiplies rows in one way at
    the tile's beginning, and in another at its end."""
    with patch.object(interpreter.InterpreterBuilder, "create_dot", _create_dot):
        yield


def _create_dot(_builder: Any, a: Any, b: Any, summed: Any, *_precision: Any) -> Any:
    product = np.matmul(a.data[:, None, :], b.data)[:, 0]
    return interpreter.TensorHandle(product + summed.data, summed.dtype.scalar)
