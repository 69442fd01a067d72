"""Keys and values in int8: each token's key, and its value, of each KV head has a scale of its own.

So what a token leaves in the cache depends on its own key and value only, whatever is computed beside it, and later
tokens change nothing of it. The kernels round alike, but for numbers halfway between two steps and, on GPUs, a scale's
last bits.
"""

import torch
from torch import Tensor

from roost_worker.kernels.int8_weight import LARGEST

SCALE_BYTES = 4
"""Of one scale, a float32."""


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round `rows` [..., head_dim] to 255 steps that are symmetric around 0; the largest number of each is kept.

    Returns:
        Numbers, [..., head_dim] int8, and scales, [...] float32. The scale of a row that holds an infinity or a NaN is
        NaN, so that the row is read as NaN.
    """
    wide = rows.float()
    largest = wide.abs().amax(dim=-1)
    scales = torch.where(largest.isfinite(), largest / LARGEST, torch.nan)
    has_steps = scales >= torch.finfo(torch.float32).tiny  # a smaller one has too few digits to divide by
    steps = torch.where(has_steps[..., None], wide, 0.0) / torch.where(has_steps, scales, 1.0)[..., None]
    return steps.round_().to(torch.int8), scales


def restored(numbers: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what `rounded` has kept, [..., head_dim], in `dtype`."""
    return (numbers * scales[..., None]).to(dtype)
