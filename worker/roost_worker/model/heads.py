"""From the fused projection to queries, keys and values."""

from dataclasses import dataclass

import torch
from torch import Tensor

from roost_worker.model.layers import HeadShare
from roost_worker.model.norm import RMSNorm
from roost_worker.model.rotary import RotaryTable


@dataclass(frozen=True, slots=True)
class NewTokens:
    """A batch's rows: queries [tokens, heads, head_dim], keys and values [tokens, kv_heads, head_dim], rotated."""

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True, slots=True)
class Heads:
    """One layer's heads on this rank, and what becomes of their queries and keys before attention."""

    share: HeadShare
    head_dim: int
    query_norm: RMSNorm | None
    key_norm: RMSNorm | None
    """None unless there is a norm of queries."""
    rotates: bool

    def split(self, qkv: Tensor, rotary: RotaryTable) -> NewTokens:
        """Norm and rotate queries and keys of `qkv` [tokens, (heads + 2 kv_heads) * head_dim]; scale the queries."""
        heads, kv_heads = self.share.heads, self.share.kv_heads
        rows = qkv.view(qkv.shape[0], heads + 2 * kv_heads, self.head_dim)
        query_key, value = torch.split(rows, [heads + kv_heads, kv_heads], dim=1)
        if self.query_norm is not None and self.key_norm is not None:
            query_key = torch.cat((self.query_norm(query_key[:, :heads]), self.key_norm(query_key[:, heads:])), dim=1)
        if self.rotates:
            query_key = rotary.rotate(query_key)
        query, key = torch.split(query_key, [heads, kv_heads], dim=1)
        return NewTokens(query if rotary.query_scale is None else query * rotary.query_scale, key, value)
