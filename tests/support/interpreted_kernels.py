"""Triton's kernels in its interpreter, for tests on CPUs. Import it before what imports the kernels."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read where a kernel is defined
pytest.importorskip("triton")

interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the kernels are compiled: test_on_gpu.py")
