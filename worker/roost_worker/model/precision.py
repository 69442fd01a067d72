"""In which number formats products are computed. This decides between kernels that differ in speed, not in results."""

from functools import cache

import torch


@cache
def has_bfloat16_units() -> bool:
    """Return whether oneDNN multiplies bfloat16 natively here. Otherwise products take eight times float32's time."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # untyped in torch
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def triton_multiplies_in_float32(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether Triton's kernels multiply in float32 whatever the numbers' dtype.

    On CPUs they are interpreted, and the interpreter's products of bfloat16 are wrong (Triton 3.9.0).
    """
    return dtype == torch.float32 or device.type == "cpu"
