"""Which number formats the CPU supports natively. This decides between kernels that differ in speed, not in results."""

from functools import cache

import torch


@cache
def has_bfloat16_units() -> bool:
    """Return whether oneDNN multiplies bfloat16 natively here. Otherwise products take eight times float32's time."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # untyped in torch
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
