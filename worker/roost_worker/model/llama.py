"""The Llama-family decoder (Touvron et al., 2023, with the variants of `architectures.py`)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from roost_worker.kernels.library import Kernels
from roost_worker.model.attention import AttentionBackend, NewTokens
from roost_worker.model.batch import BatchTensors
from roost_worker.model.config import DecoderConfig
from roost_worker.model.kv_cache import LayerKv, PagedKvCache
from roost_worker.model.layers import (
    ColumnParallelLinear,
    HeadShare,
    RowParallelLinear,
    RowRange,
    VocabularyHead,
)
from roost_worker.model.loader import Weights
from roost_worker.model.norm import RMSNorm
from roost_worker.model.parallel import RankGroup
from roost_worker.model.rotary import RotaryTable


@dataclass(frozen=True, slots=True)
class BatchMetadata:
    """What all layers share of one batch: where KV goes, the attention backend, and what it prepared."""

    batch: BatchTensors
    backend: AttentionBackend
    prepared: Any


class Attention:
    """x + attention(norm(x)): projections, rotation and grouped-query attention of one layer."""

    def __init__(
        self,
        weights: Weights,
        prefix: str,
        norm: RMSNorm,
        config: DecoderConfig,
        group: RankGroup,
        kernels: Kernels | None,
        *,
        rotates: bool,
    ) -> None:
        self._share = share = HeadShare.of(config, group)
        self._rotates = rotates
        self._head_dim = size = config.head_dim
        query = RowRange(
            f"{prefix}.q_proj",
            config.num_heads * size,
            share.first_head * size,
            (share.first_head + share.heads) * size,
        )
        first, last = share.first_kv_head * size, (share.first_kv_head + share.kv_heads) * size
        keys, values = (
            RowRange(f"{prefix}.{name}", config.num_kv_heads * size, first, last) for name in ("k_proj", "v_proj")
        )
        self._qkv = ColumnParallelLinear(
            weights, (query, keys, values), config.hidden_size, bias=config.qkv_bias, norm=norm, kernels=kernels
        )
        out_shape = (config.hidden_size, config.num_heads * size)
        self._out = RowParallelLinear(
            weights, f"{prefix}.o_proj", out_shape, group, bias=config.output_bias, kernels=kernels
        )
        self._query_norm = self._key_norm = None
        if config.query_key_norm:
            self._query_norm = RMSNorm(weights, f"{prefix}.q_norm.weight", size, config.norm_eps)
            self._key_norm = RMSNorm(weights, f"{prefix}.k_norm.weight", size, config.norm_eps)

    def __call__(self, x: Tensor, rotary: RotaryTable, metadata: BatchMetadata, kv: LayerKv) -> Tensor:
        new = self._project(x, rotary)
        kv.write(metadata.batch.kv_blocks, metadata.batch.kv_offsets, new.key, new.value)
        return self._out(metadata.backend.attend(new, kv, metadata.prepared), residual=x)

    def _project(self, x: Tensor, rotary: RotaryTable) -> NewTokens:
        heads, kv_heads = self._share.heads, self._share.kv_heads
        qkv = self._qkv(x).view(x.shape[0], heads + 2 * kv_heads, self._head_dim)
        query_key, value = torch.split(qkv, [heads + kv_heads, kv_heads], dim=1)
        if self._query_norm is not None and self._key_norm is not None:
            query_key = torch.cat((self._query_norm(query_key[:, :heads]), self._key_norm(query_key[:, heads:])), dim=1)
        if self._rotates:
            query_key = rotary.rotate(query_key)
        query, key = torch.split(query_key, [heads, kv_heads], dim=1)
        return NewTokens(query if rotary.query_scale is None else query * rotary.query_scale, key, value)


class FeedForward:
    """x + gated unit(norm(x)): the feed-forward network (SwiGLU, Shazeer, 2020) of one layer."""

    def __init__(
        self,
        weights: Weights,
        prefix: str,
        norm: RMSNorm,
        config: DecoderConfig,
        group: RankGroup,
        kernels: Kernels | None,
    ) -> None:
        share = config.intermediate_size // group.world
        start = group.rank * share
        parts = [
            RowRange(f"{prefix}.{name}", config.intermediate_size, start, start + share)
            for name in ("gate_proj", "up_proj")
        ]
        self._gate_up = ColumnParallelLinear(
            weights, parts, config.hidden_size, bias=config.mlp_bias, norm=norm, gated=True, kernels=kernels
        )
        down_shape = (config.hidden_size, config.intermediate_size)
        self._down = RowParallelLinear(
            weights, f"{prefix}.down_proj", down_shape, group, bias=config.mlp_bias, kernels=kernels
        )

    def __call__(self, x: Tensor) -> Tensor:
        return self._down(self._gate_up(x), residual=x)


class DecoderLayer:
    """One layer: a pure function of (x, rotary positions, metadata, kv), except that it writes KV rows."""

    def __init__(
        self, weights: Weights, index: int, config: DecoderConfig, group: RankGroup, kernels: Kernels | None
    ) -> None:
        prefix = f"model.layers.{index}"
        input_norm, post_norm = (
            RMSNorm(weights, f"{prefix}.{name}.weight", config.hidden_size, config.norm_eps)
            for name in ("input_layernorm", "post_attention_layernorm")
        )
        rotates = index not in config.unrotated_layers
        self._attention = Attention(weights, f"{prefix}.self_attn", input_norm, config, group, kernels, rotates=rotates)
        self._feed_forward = FeedForward(weights, f"{prefix}.mlp", post_norm, config, group, kernels)

    def __call__(self, x: Tensor, rotary: RotaryTable, metadata: BatchMetadata, kv: LayerKv) -> Tensor:
        return self._feed_forward(self._attention(x, rotary, metadata, kv))


class Llama:
    """The whole decoder on one rank.

    Args:
        weights: with HF Llama's tensor names. Every rank opens the same file and reads its own share.
        positions: most tokens of a context.
        kernels: compiled kernels, or None for torch's operators.
    Raises:
        WeightsError: a tensor is missing or does not have the config's shape.
    """

    def __init__(
        self, weights: Weights, config: DecoderConfig, group: RankGroup, positions: int, kernels: Kernels | None = None
    ) -> None:
        shape = (config.vocab_size, config.hidden_size)
        self._embedding = weights.whole("model.embed_tokens.weight", shape)
        self._layers = [DecoderLayer(weights, i, config, group, kernels) for i in range(config.num_layers)]
        norm = RMSNorm(weights, "model.norm.weight", config.hidden_size, config.norm_eps)
        head = self._embedding if config.tied_embeddings else weights.whole("lm_head.weight", shape)
        self._head = VocabularyHead(head, norm, group, kernels)
        self._rotary = RotaryTable.build(config, positions, weights.dtype, weights.device)

    def __call__(self, batch: BatchTensors, cache: PagedKvCache, backend: AttentionBackend) -> Tensor | None:
        """Return logits [sampled rows, vocabulary] on rank 0; None on other ranks, and when nothing is sampled."""
        x = functional.embedding(batch.token_ids, self._embedding)
        rotary = self._rotary.at(batch.positions)
        metadata = BatchMetadata(batch, backend, backend.prepare(batch))
        for layer, kv in zip(self._layers, cache.layers, strict=True):
            x = layer(x, rotary, metadata, kv)
        if batch.sample_rows.numel() == 0:
            return None
        return self._head(x.index_select(0, batch.sample_rows))
