"""The decoder's parts. Each loads and keeps this rank's share of its weights.

Column-parallel layers keep rows of a weight and need no exchange; row-parallel ones keep columns and sum over the
group (Shoeybi et al., 2019, Megatron-LM). So `llama.py` reads as if there were one rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from roost_worker.model.config import DecoderConfig
from roost_worker.model.linear import Linears
from roost_worker.model.loader import Weights
from roost_worker.model.norm import RMSNorm
from roost_worker.model.parallel import RankGroup


@dataclass(frozen=True, slots=True)
class HeadShare:
    """The heads of one rank. KV heads are replicated when there are more ranks than KV heads."""

    heads: int
    kv_heads: int
    first_head: int
    first_kv_head: int

    @classmethod
    def of(cls, config: DecoderConfig, group: RankGroup) -> "HeadShare":
        heads = config.num_heads // group.world
        kv_heads = max(1, config.num_kv_heads // group.world)
        first_head = group.rank * heads
        return cls(heads, kv_heads, first_head, first_head * config.num_kv_heads // config.num_heads)


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows start .. stop of the weight `name`, which has `rows` rows in all."""

    name: str
    rows: int
    start: int
    stop: int


class ColumnParallelLinear:
    """Several weights with the same input, fused: [tokens, columns] -> [tokens, sum of the parts' rows].

    `norm` and `gated` are those of `Linears.of`.
    """

    def __init__(
        self,
        weights: Weights,
        parts: Sequence[RowRange],
        columns: int,
        *,
        bias: bool,
        norm: RMSNorm,
        gated: bool = False,
        linears: Linears,
    ) -> None:
        weight = torch.cat([weights.rows(f"{p.name}.weight", (p.rows, columns), p.start, p.stop) for p in parts])
        biases = [weights.rows(f"{p.name}.bias", (p.rows,), p.start, p.stop) for p in parts] if bias else []
        self._linear = linears.of(weight, torch.cat(biases) if biases else None, norm=norm, gated=gated)

    def __call__(self, x: Tensor) -> Tensor:
        return self._linear(x)


class RowParallelLinear:
    """A weight whose input is spread over the ranks: [tokens, columns / world] -> [tokens, rows], summed."""

    def __init__(
        self,
        weights: Weights,
        name: str,
        shape: tuple[int, int],
        group: RankGroup,
        *,
        bias: bool,
        linears: Linears,
    ) -> None:
        share = shape[1] // group.world
        start = group.rank * share
        # Only rank 0 adds the bias, so that it is in the sum once.
        own_bias = weights.whole(f"{name}.bias", shape[:1]) if bias and group.rank == 0 else None
        weight = weights.columns(f"{name}.weight", shape, start, start + share)
        self._linear = linears.of(weight, own_bias, group=group)
        self._group = group

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return residual [tokens, rows] + the product."""
        if self._group.world == 1:
            return self._linear(x, residual)
        return residual + self._group.sum(self._linear(x))


class VocabularyHead:
    """Turns hidden rows into logits. Each rank computes an equal share of the vocabulary; rank 0 joins them."""

    def __init__(self, weight: Tensor, norm: RMSNorm, group: RankGroup, linears: Linears) -> None:
        """`weight` is the whole weight [vocabulary, hidden]; it may be the embedding's (tied)."""
        self._vocab = weight.shape[0]
        self._share = -(-self._vocab // group.world)
        start = min(group.rank * self._share, self._vocab)
        self._linear = linears.of(weight[start : start + self._share], norm=norm)
        self._group = group

    def __call__(self, hidden: Tensor) -> Tensor | None:
        """Return logits [rows, vocabulary] on rank 0, None on the others."""
        logits = self._linear(hidden)
        if self._group.world == 1:
            return logits
        joined = self._group.gather_columns(functional.pad(logits, (0, self._share - logits.shape[1])))
        return None if joined is None else joined[:, : self._vocab]
