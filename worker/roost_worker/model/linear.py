"""Matrix products with a fixed weight, with the norm before and the gate and the sum after them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from roost_worker.config import Quantization
from roost_worker.kernels.int8_weight import Int8Weight, largest_of
from roost_worker.kernels.library import Kernels
from roost_worker.model.norm import RMSNorm
from roost_worker.model.parallel import ALONE, RankGroup
from roost_worker.model.precision import has_bfloat16_units

_PACK_FOR_ROWS = 32
"""Batch size that oneDNN's layout is chosen for; it is at least as fast as the plain layout from 1 row to 256."""


class Linear(Protocol):
    """gated(norm(x) @ weight.T + bias) + residual."""

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return [rows, results] for contiguous `x` [rows, inputs] and `residual` [rows, results]."""
        ...


@dataclass(frozen=True, slots=True)
class Linears:
    """How a model's products are built: by compiled kernels or torch, with weights as they are or in int8."""

    kernels: Kernels | None = None
    """For weights of `roost_worker.kernels.library.DTYPES` on the CPU."""
    quantization: Quantization = "none"
    by_triton: bool = False
    """Whether the products are `TritonLinear`'s, which do not depend on the batch."""

    def of(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        norm: RMSNorm | None = None,
        gated: bool = False,
        group: RankGroup = ALONE,
    ) -> Linear:
        """Return the product with a weight [outputs, inputs].

        Args:
            group: the ranks that have the other inputs of the same outputs: they round alike.
            norm: what x is taken through first.
            gated: the outputs are gates and then as many values; results are silu(gate) * value (Shazeer, 2020).
        """
        int8 = Int8Weight.of(weight, group.largest(largest_of(weight))) if self.quantization == "int8" else None
        if self.kernels is not None:
            norm_weight, eps = (None, 0.0) if norm is None else (norm.weight, norm.eps)
            return self.kernels.pack(weight if int8 is None else int8, bias, norm=norm_weight, eps=eps, gated=gated)
        if not self.by_triton:
            return TorchLinear(weight if int8 is None else int8.dense(), bias, norm, gated)
        from roost_worker.model.linear_triton import TritonLinear  # here, because it needs triton

        return TritonLinear(weight if int8 is None else int8, bias, norm, gated)


class UnfusedLinear(ABC):
    """A `Linear` whose norm, gate and sum are torch's; each part rounds to the weight's dtype."""

    def __init__(self, norm: RMSNorm | None, gated: bool) -> None:
        self._norm = norm
        self._gated = gated

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        product = self._multiply(x if self._norm is None else self._norm(x))
        if self._gated:
            gates, values = product.chunk(2, dim=-1)
            product = functional.silu(gates).mul_(values)
        return product if residual is None else residual + product

    @abstractmethod
    def _multiply(self, x: Tensor) -> Tensor:
        """Return x @ weight.T + bias, [rows, outputs]."""


class TorchLinear(UnfusedLinear):
    """The product by torch's operators.

    On CPUs, float32 and bfloat16 weights are reordered once for oneDNN. The product then takes 0.5 to 0.95 of the plain
    one's time; few rows gain most. Eager torch `linear` calls the same kernel, but reorders the weight at each call.
    Without bf16 units, bfloat16 weights are kept in float32, in twice the memory: that multiplies 8 or more rows four
    to eight times as fast, and rounds where the bf16 kernel does, at the end.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, norm: RMSNorm | None, gated: bool) -> None:
        super().__init__(norm, gated)
        self._dtype = _packed_dtype(weight)
        self._weight = weight if self._dtype is None else None
        self._bias = bias if self._dtype is None or bias is None else bias.to(self._dtype)
        self._packed: Any = None if self._dtype is None else _pack(weight.to(self._dtype))

    def _multiply(self, x: Tensor) -> Tensor:
        if self._weight is not None:
            return functional.linear(x, self._weight, self._bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.to(self._dtype), self._packed, self._bias, "none", [], ""
        )
        return product.to(x.dtype)


def _packed_dtype(weight: Tensor) -> torch.dtype | None:
    """Return the dtype to pack the weight in, or None where oneDNN's layout is not available."""
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return None
    if not torch.backends.mkldnn.is_available() or not hasattr(  # type: ignore[no-untyped-call]  # untyped in torch
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return None
    return torch.bfloat16 if weight.dtype == torch.bfloat16 and has_bfloat16_units() else torch.float32


def _pack(weight: Tensor) -> Any:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACK_FOR_ROWS)
