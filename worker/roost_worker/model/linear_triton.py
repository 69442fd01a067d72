"""Products with a fixed weight by a Triton kernel, for strict determinism on GPUs."""

import triton
from torch import Tensor

from roost_worker.kernels.int8_weight import Int8Weight
from roost_worker.model.linear import UnfusedLinear
from roost_worker.model.norm import RMSNorm
from roost_worker.model.precision import triton_multiplies_in_float32
from roost_worker.triton_kernels.product import multiply

ROW_TILE, OUTPUT_TILE, INPUT_TILE = 64, 64, 64
"""The same for any number of rows, so that a row's sums do not depend on it; few rows leave most of a tile empty."""


class TritonLinear(UnfusedLinear):
    """A `Linear` in which each row's result depends on that row only, bit for bit. Int8 weights stay int8 in memory."""

    def __init__(self, weight: Tensor | Int8Weight, bias: Tensor | None, norm: RMSNorm | None, gated: bool) -> None:
        super().__init__(norm, gated)
        self._scales = weight.scales if isinstance(weight, Int8Weight) else None
        values = weight.values if isinstance(weight, Int8Weight) else weight
        self._weight, self._bias = values.contiguous(), bias
        self._wide = triton_multiplies_in_float32(weight.dtype, values.device)

    def _multiply(self, x: Tensor) -> Tensor:
        assert x.is_contiguous()
        outputs, inputs = self._weight.shape
        out = x.new_empty(len(x), outputs)
        grid = (triton.cdiv(len(x), ROW_TILE), triton.cdiv(outputs, OUTPUT_TILE))
        multiply[grid](
            x, self._weight, *(self._weight if given is None else given for given in (self._scales, self._bias)),
            out, len(x),
            INPUTS=inputs, OUTPUTS=outputs,
            ROW_TILE=ROW_TILE, OUTPUT_TILE=OUTPUT_TILE, INPUT_TILE=INPUT_TILE,
            HAS_BIAS=self._bias is not None, WIDE=self._wide,
        )  # fmt: skip
        return out
