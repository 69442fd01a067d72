"""Prefill attention, one sequence at a time.

It is torch's SDPA, except in bfloat16 on CPUs with bf16 units. There it is matmul, softmax, matmul for each KV head,
which takes 0.8 of SDPA's time at 256 keys and 0.55 at 2,048 (256 queries, AVX512-BF16), because SDPA's tiles are too
small for these units. Without bf16 units it would take 20 times SDPA's time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from roost_worker.model.attention import attend_sequence, causal_mask
from roost_worker.model.batch import Span
from roost_worker.model.kv_cache import KvShape
from roost_worker.model.lengths import padded_length

_QUERY_MULTIPLE = 32


@dataclass(frozen=True, slots=True)
class PrefillSpan:
    """One prefill chunk, prepared for all layers."""

    span: Span
    length: int
    """Keys to gather, including padding; 0 if the chunk's own keys, as they were projected, are all there are."""
    mask: Tensor | None
    """Added to the scores; which scores it covers depends on the implementation."""


class SdpaPrefill:
    """torch's scaled_dot_product_attention."""

    def __init__(self, dtype: torch.dtype, device: torch.device, *, reads_own_keys: bool) -> None:
        """With `reads_own_keys` a first chunk reads its keys and values from the cache, which rounds them."""
        self._dtype = dtype
        self._device = device
        self._reads_own_keys = reads_own_keys

    def prepare(self, span: Span) -> PrefillSpan:
        if span.start == 0:
            return PrefillSpan(span, span.length if self._reads_own_keys else 0, None)
        return PrefillSpan(span, span.length, causal_mask(span, self._dtype, self._device))

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, prefill: PrefillSpan) -> Tensor:
        """Attend with query [tokens, heads, dim] to keys and values [kv_heads, length, dim]: [tokens, heads * dim]."""
        return attend_sequence(query, keys, values, prefill.mask, causal=prefill.mask is None)


class MatmulPrefill:
    """Matmul, softmax, matmul; the query heads of a group are rows of one product.

    Queries and keys are padded to a few sizes (see `padded_length`), so KV is always read from the cache, whose null
    block is the padding.
    """

    def __init__(self, shape: KvShape, dtype: torch.dtype) -> None:
        self._shape = shape
        self._dtype = dtype
        self._scale = shape.head_dim**-0.5
        self._scores = self._weights = torch.empty(0, dtype=dtype)

    def prepare(self, span: Span) -> PrefillSpan:
        queries = -(-span.tokens // _QUERY_MULTIPLE) * _QUERY_MULTIPLE
        length = padded_length(span.length, self._shape.block_tokens)
        # Every query attends to all keys before the chunk; the mask covers the other keys, for padding queries too.
        mask = torch.full((queries, length - span.start), float("-inf"), dtype=self._dtype).triu_(1)
        return PrefillSpan(span, length, mask)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, prefill: PrefillSpan) -> Tensor:
        """Attend with query [tokens, heads, dim] to keys and values [kv_heads, length, dim]: [tokens, heads * dim]."""
        assert prefill.mask is not None
        tokens, heads, head_dim = query.shape
        kv_heads, padded = self._shape.kv_heads, prefill.mask.shape[0]
        folded = query.new_zeros(kv_heads, heads // kv_heads, padded, head_dim)
        folded[:, :, :tokens] = (query * self._scale).view(tokens, kv_heads, -1, head_dim).permute(1, 2, 0, 3)
        out = torch.empty_like(folded)
        for head in range(kv_heads):
            self._attend_head(folded[head], keys[head], values[head], prefill.mask, out[head])
        return out[:, :, :tokens].permute(2, 0, 1, 3).reshape(tokens, heads * head_dim)

    def _attend_head(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, out: Tensor) -> None:
        """Attend with one KV head: query and out [group, padded tokens, head_dim], keys, values [length, head_dim]."""
        rows = query.flatten(0, 1)
        scores, weights = self._scratch(rows.shape[0], keys.shape[0])
        torch.mm(rows, keys.t(), out=scores)
        scores.view(*query.shape[:2], -1)[:, :, -mask.shape[1] :] += mask
        torch.softmax(scores, dim=-1, out=weights)
        torch.mm(weights, values, out=out.flatten(0, 1))

    def _scratch(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Return two reused matrices: new ones of this size would be mapped and zeroed by the kernel each time."""
        size = rows * columns
        if size > self._scores.numel():
            self._scores, self._weights = (torch.empty(size, dtype=self._dtype) for _ in range(2))
        return self._scores[:size].view(rows, columns), self._weights[:size].view(rows, columns)
