"""What the CPU can compute in. Asked once; the answer decides between kernels, never between results worth telling."""

from functools import cache

import torch


@cache
def has_bfloat16_units() -> bool:
    """Whether oneDNN multiplies bfloat16 natively here. Where it does not, products take eight times float32's time."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # untyped in torch
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
