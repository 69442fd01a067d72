"""Weights in int8: each output has a scale of its own (LLM.int8(), Dettmers et al., 2022, without its outliers)."""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """A weight [outputs, inputs] as values * scales, for products with rows of `dtype`."""

    values: Tensor
    """[outputs, inputs] int8, -127 to 127."""
    scales: Tensor
    """[outputs] float32."""
    dtype: torch.dtype

    @classmethod
    def of(cls, weight: Tensor, largest: Tensor | None = None) -> "Int8Weight":
        """Round each output's weights to 255 steps that are symmetric around 0; its largest one is kept.

        `largest` [outputs] is the largest absolute weight of each output, where `weight` has only some of its inputs.
        """
        wide = weight.float()
        largest = largest_of(weight) if largest is None else largest
        scales = largest / largest.new_tensor(LARGEST)  # GPUs multiply by the reciprocal of a number of Python's
        steps = wide / torch.where(scales > 0, scales, 1.0)[:, None]
        return cls(steps.round_().to(torch.int8), scales, weight.dtype)

    def dense(self) -> Tensor:
        """Return the weight in its dtype, where there is no product with int8."""
        return (self.values * self.scales[:, None]).to(self.dtype)


def largest_of(weight: Tensor) -> Tensor:
    """Return the largest absolute weight of each output, [outputs] float32."""
    return weight.float().abs().amax(dim=1)
