"""Formats that the worker does not have, computed by rounding to them where it would: what they cost in accuracy.

Numbers are rounded to 8 bits and back, and multiplied by torch's operators in the model's dtype, or in float32 where
activations are rounded, too: so units for products of 8 bits sum. A scale is a float32, by which the largest number of
those that share it becomes the format's largest.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from roost_worker.model.heads import Heads, NewTokens
from roost_worker.model.int8_kv import restored, rounded
from roost_worker.model.linear import Linear, Linears, TorchLinear, UnfusedLinear
from roost_worker.model.norm import RMSNorm
from roost_worker.model.rotary import RotaryTable

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
VOCABULARY_FROM = 16_384
"""Outputs of a product from which on it is taken for the head's."""
Rounding = Callable[[Tensor], Tensor]


def exactly(rows: Tensor) -> Tensor:
    return rows


def to_e4m3(rows: Tensor) -> Tensor:
    """Round `rows` [..., numbers] to e4m3 with a scale for each row."""
    wide = rows.float()
    scales = wide.abs().amax(dim=-1, keepdim=True) / LARGEST
    return (_nearest_e4m3(wide / torch.where(scales > 0, scales, 1.0)) * scales).to(rows.dtype)


def to_e4m3_without_scales(rows: Tensor) -> Tensor:
    """Round `rows` to e4m3; what is beyond its largest number becomes that."""
    return _nearest_e4m3(rows.float()).to(rows.dtype)


def _nearest_e4m3(wide: Tensor) -> Tensor:
    return wide.clamp(-LARGEST, LARGEST).to(E4M3).float()


def to_int8(rows: Tensor) -> Tensor:
    """Round `rows` [..., numbers] to int8 with a scale for each row."""
    return restored(*rounded(rows), rows.dtype)


class RoundedLinear(UnfusedLinear):
    """A product whose activations are rounded, too."""

    def __init__(
        self, activations: Rounding, weight: Tensor, bias: Tensor | None, norm: RMSNorm | None, gated: bool
    ) -> None:
        super().__init__(norm, gated)
        self._activations, self._weight = activations, weight
        self._bias = None if bias is None else bias.float()

    def _multiply(self, x: Tensor) -> Tensor:
        return functional.linear(self._activations(x.float()), self._weight, self._bias).to(x.dtype)


@dataclass(frozen=True, slots=True)
class TriedFormat:
    """How the numbers of a model are rounded that is built, and run by torch's operators, inside of `in_use`."""

    weights: Rounding = exactly
    activations: Rounding | None = None
    head: bool = True
    """Whether the head's weights and activations are rounded, too."""
    kv: Rounding = exactly

    @contextmanager
    def in_use(self) -> Iterator[None]:
        split = Heads.split

        def split_and_round(heads: Heads, qkv: Tensor, rotary: RotaryTable) -> NewTokens:
            new = split(heads, qkv, rotary)
            return NewTokens(new.query, self.kv(new.key), self.kv(new.value))

        def of(_: Linears, weight: Tensor, bias: Tensor | None = None, **options: Any) -> Linear:
            return self._linear(weight, bias, options.get("norm"), options.get("gated", False))

        with patch.object(Linears, "of", of), patch.object(Heads, "split", split_and_round):
            yield

    def _linear(self, weight: Tensor, bias: Tensor | None, norm: RMSNorm | None, gated: bool) -> Linear:
        if len(weight) >= VOCABULARY_FROM and not self.head:
            return TorchLinear(weight, bias, norm, gated)
        if self.activations is None:
            return TorchLinear(self.weights(weight), bias, norm, gated)
        return RoundedLinear(self.activations, self.weights(weight.float()), bias, norm, gated)


TRIED = {
    ", e4m3 weights": TriedFormat(weights=to_e4m3),
    ", e4m3 weights and activations": TriedFormat(weights=to_e4m3, activations=to_e4m3),
    ", e4m3 but the head": TriedFormat(weights=to_e4m3, activations=to_e4m3, head=False),
    ", int8 weights and activations": TriedFormat(weights=to_int8, activations=to_int8),
    ", int8 but the head": TriedFormat(weights=to_int8, activations=to_int8, head=False),
    ", int8 KV by torch": TriedFormat(kv=to_int8),
    ", e4m3 KV": TriedFormat(kv=to_e4m3),
    ", e4m3 KV without scales": TriedFormat(kv=to_e4m3_without_scales),
}
