"""Products with a fixed weight by a Triton kernel, for strict determinism on GPUs."""

import torch
import triton
from torch import Tensor

from roost_worker.model.linear import gate
from roost_worker.model.norm import RMSNorm
from roost_worker.triton_kernels.product import multiply

ROW_TILE, OUTPUT_TILE, INPUT_TILE = 64, 64, 64
"""The same for any number of rows, so that a row's sums do not depend on it; few rows leave most of a tile empty."""


class TritonLinear:
    """A `Linear` in which each row's result depends on that row only, bit for bit."""

    def __init__(self, weight: Tensor, bias: Tensor | None, norm: RMSNorm | None, gated: bool) -> None:
        self._weight, self._bias, self._norm, self._gated = weight.contiguous(), bias, norm, gated
        # On CPUs the kernel is interpreted, and products of bfloat16 are wrong there (Triton 3.9.0).
        self._wide = weight.dtype == torch.float32 or weight.device.type == "cpu"

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        product = self._multiply(x if self._norm is None else self._norm(x))
        if self._gated:
            product = gate(product)
        return product if residual is None else residual + product

    def _multiply(self, x: Tensor) -> Tensor:
        assert x.is_contiguous()
        outputs, inputs = self._weight.shape
        out = x.new_empty(len(x), outputs)
        grid = (triton.cdiv(len(x), ROW_TILE), triton.cdiv(outputs, OUTPUT_TILE))
        multiply[grid](
            x, self._weight, self._weight if self._bias is None else self._bias, out, len(x),
            INPUTS=inputs, OUTPUTS=outputs,
            ROW_TILE=ROW_TILE, OUTPUT_TILE=OUTPUT_TILE, INPUT_TILE=INPUT_TILE,
            HAS_BIAS=self._bias is not None, WIDE=self._wide,
        )  # fmt: skip
        return out
