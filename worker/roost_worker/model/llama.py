"""The Llama-family decoder (Touvron et al., 2023, with the variants of `architectures.py`)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from roost_worker.model.attention import AttentionBackend
from roost_worker.model.batch import BatchTensors
from roost_worker.model.config import DecoderConfig
from roost_worker.model.heads import Heads
from roost_worker.model.kv_cache import LayerKv, PagedKvCache
from roost_worker.model.layers import (
    ColumnParallelLinear,
    HeadShare,
    RowParallelLinear,
    RowRange,
    VocabularyHead,
)
from roost_worker.model.linear import Linears
from roost_worker.model.loader import Weights
from roost_worker.model.norm import RMSNorm
from roost_worker.model.parallel import RankGroup
from roost_worker.model.rotary import RotaryTable


@dataclass(frozen=True, slots=True)
class BatchMetadata:
    """What all layers share of one batch: the attention backend, and what it prepared."""

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
        linears: Linears,
        *,
        rotates: bool,
    ) -> None:
        share = HeadShare.of(config, group)
        size = config.head_dim
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
            weights, (query, keys, values), config.hidden_size, bias=config.qkv_bias, norm=norm, linears=linears
        )
        out_shape = (config.hidden_size, config.num_heads * size)
        self._out = RowParallelLinear(
            weights, f"{prefix}.o_proj", out_shape, group, bias=config.output_bias, linears=linears
        )
        query_norm = key_norm = None
        if config.query_key_norm:
            query_norm = RMSNorm(weights, f"{prefix}.q_norm.weight", size, config.norm_eps)
            key_norm = RMSNorm(weights, f"{prefix}.k_norm.weight", size, config.norm_eps)
        self._heads = Heads(share, size, query_norm, key_norm, rotates)

    def __call__(self, x: Tensor, rotary: RotaryTable, metadata: BatchMetadata, kv: LayerKv) -> Tensor:
        attended = metadata.backend.attend(self._qkv(x), self._heads, rotary, kv, metadata.prepared)
        return self._out(attended, residual=x)


class FeedForward:
    """x + gated unit(norm(x)): the feed-forward network (SwiGLU, Shazeer, 2020) of one layer."""

    def __init__(
        self,
        weights: Weights,
        prefix: str,
        norm: RMSNorm,
        config: DecoderConfig,
        group: RankGroup,
        linears: Linears,
    ) -> None:
        share = config.intermediate_size // group.world
        start = group.rank * share
        parts = [
            RowRange(f"{prefix}.{name}", config.intermediate_size, start, start + share)
            for name in ("gate_proj", "up_proj")
        ]
        self._gate_up = ColumnParallelLinear(
            weights, parts, config.hidden_size, bias=config.mlp_bias, norm=norm, gated=True, linears=linears
        )
        down_shape = (config.hidden_size, config.intermediate_size)
        self._down = RowParallelLinear(
            weights, f"{prefix}.down_proj", down_shape, group, bias=config.mlp_bias, linears=linears
        )

    def __call__(self, x: Tensor) -> Tensor:
        return self._down(self._gate_up(x), residual=x)


class DecoderLayer:
    """One layer: a pure function of (x, rotary positions, metadata, kv), except that it writes KV rows."""

    def __init__(self, weights: Weights, index: int, config: DecoderConfig, group: RankGroup, linears: Linears) -> None:
        prefix = f"model.layers.{index}"
        input_norm, post_norm = (
            RMSNorm(weights, f"{prefix}.{name}.weight", config.hidden_size, config.norm_eps)
            for name in ("input_layernorm", "post_attention_layernorm")
        )
        rotates = index not in config.unrotated_layers
        self._attention = Attention(weights, f"{prefix}.self_attn", input_norm, config, group, linears, rotates=rotates)
        self._feed_forward = FeedForward(weights, f"{prefix}.mlp", post_norm, config, group, linears)

    def __call__(self, x: Tensor, rotary: RotaryTable, metadata: BatchMetadata, kv: LayerKv) -> Tensor:
        return self._feed_forward(self._attention(x, rotary, metadata, kv))


class Llama:
    """The whole decoder on one rank.

    Args:
        weights: with HF Llama's tensor names. Every rank opens the same file and reads its own share.
        positions: most tokens of a context.
        linears: how products are built.
    Raises:
        WeightsError: a tensor is missing or does not have the config's shape.
    """

    def __init__(
        self, weights: Weights, config: DecoderConfig, group: RankGroup, positions: int, linears: Linears
    ) -> None:
        shape = (config.vocab_size, config.hidden_size)
        self._embedding = weights.whole("model.embed_tokens.weight", shape)
        self._layers = [DecoderLayer(weights, i, config, group, linears) for i in range(config.num_layers)]
        norm = RMSNorm(weights, "model.norm.weight", config.hidden_size, config.norm_eps)
        head = self._embedding if config.tied_embeddings else weights.whole("lm_head.weight", shape)
        self._head = VocabularyHead(head, norm, group, linears)
        self._rotary = RotaryTable.build(config, positions, weights.dtype, weights.device)

    def __call__(self, batch: BatchTensors, cache: PagedKvCache, metadata: BatchMetadata) -> Tensor | None:
        """Return logits [sampled rows, vocabulary] on rank 0; None on other ranks, and when nothing is sampled."""
        x = functional.embedding(batch.token_ids, self._embedding)
        rotary = self._rotary.at(batch.positions)
        for layer, kv in zip(self._layers, cache.layers, strict=True):
            x = layer(x, rotary, metadata, kv)
        if batch.sample_rows.numel() == 0:
            return None
        return self._head(x.index_select(0, batch.sample_rows))
