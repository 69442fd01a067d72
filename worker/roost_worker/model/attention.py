"""Attention over paged KV: the interface of a backend, and what backends share.

A backend prepares each batch once (`prepare`); then every layer calls `attend` with the result. How keys and values lie
within a block is the backend's own affair; others copy blocks as bytes.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from roost_worker.model.batch import BatchTensors, Span
from roost_worker.model.heads import Heads
from roost_worker.model.kv_cache import LayerKv
from roost_worker.model.rotary import RotaryTable


class AttentionBackend(Protocol):
    """Causal grouped-query attention of a mixed batch over paged KV."""

    def prepare(self, batch: BatchTensors) -> Any:
        """Return index tensors and masks that all layers share; they are passed to `attend` as they are."""
        ...

    def attend(self, qkv: Tensor, heads: Heads, rotary: RotaryTable, kv: LayerKv, metadata: Any) -> Tensor:
        """Write the batch's keys and values to `kv`, and return attention outputs, [tokens, heads * head_dim].

        Args:
            qkv: the fused projection, [tokens, (heads + 2 kv_heads) * head_dim].
            heads: what to do with its queries and keys first; `Heads.split` is the definition.
            rotary: the rows of the batch's positions.
        """
        ...


def attend_sequence(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Attend within one sequence, without copying KV for each query head of a group.

    Args:
        query: [tokens, heads, head_dim].
        key, value: [kv_heads, length, head_dim].
        mask: [tokens, length], added to the scores; None for no mask.
        causal: whether query i attends to keys 0 .. i only; tokens must then equal length.
    Returns:
        [tokens, heads * head_dim].
    """
    tokens, heads, head_dim = query.shape
    kv_heads, length, _ = key.shape
    group = heads // kv_heads
    # KV heads are in the batch dimension, so that sharing a group's keys is a stride of zero, not a copy.
    folded = query.view(tokens, kv_heads, group, head_dim).permute(1, 2, 0, 3)
    spread = (kv_heads, group, length, head_dim)
    out = functional.scaled_dot_product_attention(
        folded, key.unsqueeze(1).expand(spread), value.unsqueeze(1).expand(spread), attn_mask=mask, is_causal=causal
    )
    return out.permute(2, 0, 1, 3).reshape(tokens, heads * head_dim)


def causal_mask(span: Span, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a mask [tokens, length], 0 where a query may attend and -inf elsewhere.

    It is the lower right corner of the sequence's causal mask.
    """
    mask = torch.full((span.tokens, span.length), float("-inf"), dtype=dtype, device=device)
    return mask.triu_(span.start + 1)
