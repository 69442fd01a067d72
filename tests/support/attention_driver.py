"""Feeds random sequences to an attention backend, in batches of any cut."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from roost_worker.engine.plan import Chunk
from roost_worker.model.attention import AttentionBackend
from roost_worker.model.batch import build_batch
from roost_worker.model.heads import Heads
from roost_worker.model.kv_cache import KvShape, PagedKvCache
from roost_worker.model.layers import HeadShare
from roost_worker.model.norm import RMSNorm
from roost_worker.model.rotary import RotaryTable

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Layer:
    """Sizes and weights of one layer's attention, and its sequences' inputs."""

    heads: Heads
    rotary: RotaryTable
    """Of all positions."""
    sequences: tuple[Tensor, ...]
    """Each the fused projection of all its tokens, [tokens, (heads + 2 kv_heads) * head_dim]."""

    def to(self, dtype: torch.dtype) -> "Layer":
        """The same numbers in another dtype."""
        scale = self.rotary.query_scale
        rotary = RotaryTable(
            self.rotary.cos.to(dtype), self.rotary.sin.to(dtype), None if scale is None else scale.to(dtype)
        )
        query_norm, key_norm = (
            None if norm is None else _norm(norm.weight.to(dtype))
            for norm in (self.heads.query_norm, self.heads.key_norm)
        )
        heads = replace(self.heads, query_norm=query_norm, key_norm=key_norm)
        return Layer(heads, rotary, tuple(sequence.to(dtype) for sequence in self.sequences))


def layer(
    lengths: Sequence[int],
    dtype: torch.dtype = torch.float32,
    *,
    group: int = 3,
    kv_heads: int = 2,
    head_dim: int = 64,
    norms: bool = False,
    rotates: bool = True,
    scales: bool = False,
) -> Layer:
    """A random layer, with a sequence of each length."""
    random = torch.Generator().manual_seed(sum(lengths) + group)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random).to(dtype)

    positions, heads = max(lengths), group * kv_heads
    angles = torch.rand(positions, 1, head_dim, generator=random) * 7
    scale = 0.5 + torch.rand(positions, 1, 1, generator=random) if scales else None
    rotary = RotaryTable(angles.cos().to(dtype), angles.sin().to(dtype), None if scale is None else scale.to(dtype))
    query_norm, key_norm = (_norm(normal(head_dim)) if norms else None for _ in range(2))
    return Layer(
        Heads(HeadShare(heads, kv_heads, 0, 0), head_dim, query_norm, key_norm, rotates),
        rotary,
        tuple(normal(length, (heads + 2 * kv_heads) * head_dim) for length in lengths),
    )


def _norm(weight: Tensor) -> RMSNorm:
    weights: Any = SimpleNamespace(whole=lambda _name, _shape: weight)
    return RMSNorm(weights, "norm", weight.shape[0], 1e-5)


class AttentionDriver:
    """One layer's paged KV and a backend that attends over it."""

    def __init__(
        self,
        layer: Layer,
        backend: Callable[[KvShape, torch.dtype], AttentionBackend],
        block_tokens: int,
        left_behind: float = 9.0,
        *,
        is_int8: bool = False,
    ) -> None:
        """`left_behind` is what free blocks hold."""
        self._layer = layer
        dtype = layer.sequences[0].dtype
        tables = [-(-len(sequence) // block_tokens) for sequence in layer.sequences]
        shape = KvShape(sum(tables) + 1, 2, block_tokens, layer.heads.share.kv_heads, layer.heads.head_dim, is_int8)
        self.cache = PagedKvCache(shape, dtype, CPU)
        self.cache.tensor[1:] = left_behind
        blocks = (1 + torch.randperm(sum(tables), generator=torch.Generator().manual_seed(1))).split(tables)
        self._tables = [array("I", table.tolist()) for table in blocks]
        self._block_tokens = block_tokens
        self._computed = [0] * len(tables)
        self._backend = backend(shape, dtype)

    def attend(self, *tokens: int) -> list[Tensor]:
        """Attend for the next `tokens` of each sequence, in one batch; outputs [tokens, heads * head_dim] of each."""
        batch = build_batch(
            [self._chunk(index, count) for index, count in enumerate(tokens) if count], self._block_tokens, CPU
        )
        rows = zip(batch.token_ids.tolist(), batch.positions.tolist(), strict=True)
        out = self._backend.attend(
            torch.stack([self._layer.sequences[index][position] for index, position in rows]),
            self._layer.heads,
            self._layer.rotary.at(batch.positions),
            self.cache.layers[1],
            self._backend.prepare(batch),
        )
        return [out[batch.token_ids == index] for index in range(len(tokens))]

    def _chunk(self, index: int, tokens: int) -> Chunk:
        """The next tokens of a sequence, whose ids are its index."""
        start = self._computed[index]
        self._computed[index] += tokens
        table = self._tables[index][: -(-self._computed[index] // self._block_tokens)]
        return Chunk(index, array("I", [index] * tokens), start, table, sample=False)

    def attend_in_chunks(self, tokens: int) -> Tensor:
        """Outputs of all tokens of the only sequence, computed `tokens` at a time."""
        length = len(self._layer.sequences[0])
        return torch.cat([self.attend(min(tokens, length - start))[0] for start in range(0, length, tokens)])
