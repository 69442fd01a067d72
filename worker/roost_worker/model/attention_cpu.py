"""Attention tuned for CPUs: KV of a few rows at a time is gathered into scratch that stays in the cache, then SDPA.

A decode row is one query per head against a long KV. The query heads that share a KV head become the queries of one
attention, so that their keys are read once: that takes 0.6 of the time of matmul, softmax, matmul over keys that were
turned head-major (AVX512-BF16, 2,048 keys), 0.25 without bf16 units, and 0.7 in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roost_worker.model.attention import NewTokens
from roost_worker.model.attention_prefill import MatmulPrefill, PrefillSpan, SdpaPrefill
from roost_worker.model.batch import Batch, Span
from roost_worker.model.kv_cache import KvShape, LayerKv
from roost_worker.model.precision import has_bfloat16_units

SCRATCH_BYTES = 3 << 18
"""Gathered keys of one group of rows; as much again is used for values."""
FEWEST_ROWS = 2
"""Rows to take together if they are alike, whatever their size: a single row's KV heads keep threads busy unevenly."""
PADDING_SHARE = 0.25
"""Most padding of the shortest row of a group, as a share of the longest."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Decode rows begin .. end of the batch, taken together."""

    begin: int
    end: int
    length: int
    """Of the longest row."""
    blocks: Tensor
    """[rows * blocks of the longest row] int64; padding is the null block."""
    mask: Tensor | None
    """[rows, 1, 1, length], -inf at padding; None when there is none."""


@dataclass(frozen=True, slots=True)
class CpuMetadata:
    """What all layers of a step share."""

    decode: tuple[DecodeGroup, ...]
    prefill: tuple[tuple[PrefillSpan, Tensor], ...]
    """Each with the blocks to gather, [length / block_tokens] int64."""


def group_rows(lengths: Sequence[int], scratch_tokens: int) -> list[tuple[int, int]]:
    """Cuts rows of ascending `lengths` into groups [begin, end) of like length that fit the scratch, longest first."""
    groups = []
    end = len(lengths)
    while end > 0:
        longest = lengths[end - 1]
        most = max(FEWEST_ROWS, scratch_tokens // longest)
        begin = end - 1
        while begin > 0 and end - begin < most and _alike(lengths[begin - 1], longest):
            begin -= 1
        groups.append((begin, end))
        end = begin
    return groups


def _alike(shorter: int, longest: int) -> bool:
    return longest - shorter <= max(32, longest * PADDING_SHARE)


class CpuAttention:
    """The CPU backend; see AttentionBackend."""

    def __init__(self, shape: KvShape, dtype: torch.dtype) -> None:
        self._shape = shape
        self._dtype = dtype
        self._scratch_tokens = SCRATCH_BYTES // (shape.kv_heads * shape.head_dim * dtype.itemsize)
        self._keys = self._values = torch.empty(0, dtype=dtype)
        use_matmul = dtype == torch.bfloat16 and has_bfloat16_units()
        self._prefill = MatmulPrefill(shape, dtype) if use_matmul else SdpaPrefill(dtype)

    def prepare(self, batch: Batch) -> CpuMetadata:
        lengths = [span.length for span in batch.decode]
        decode = tuple(
            self._decode_group(batch.decode[b:e], b, e) for b, e in group_rows(lengths, self._scratch_tokens)
        )
        prefill = tuple(self._prefill_span(span) for span in batch.prefill)
        self._make_room(max([g.blocks.numel() for g in decode] + [blocks.numel() for _, blocks in prefill], default=0))
        return CpuMetadata(decode, prefill)

    def _make_room(self, blocks: int) -> None:
        size = blocks * self._shape.block_tokens * self._shape.kv_heads * self._shape.head_dim
        if size > self._keys.numel():
            self._keys, self._values = (torch.empty(size, dtype=self._dtype) for _ in range(2))

    def _decode_group(self, spans: Sequence[Span], begin: int, end: int) -> DecodeGroup:
        lengths = np.array([span.length for span in spans])
        longest = int(lengths[-1])
        table = np.zeros((len(spans), -(-longest // self._shape.block_tokens)), dtype=np.int64)
        for row, span in enumerate(spans):
            table[row, : len(span.block_ids)] = span.block_ids
        mask = None if int(lengths[0]) == longest else self._padding_mask(lengths)
        return DecodeGroup(begin, end, longest, torch.from_numpy(table.reshape(-1)), mask)

    def _padding_mask(self, lengths: "np.ndarray") -> Tensor:
        padded = torch.from_numpy(np.arange(lengths[-1]) >= lengths[:, None])
        mask = torch.zeros(padded.shape, dtype=self._dtype).masked_fill_(padded, float("-inf"))
        return mask[:, None, None]

    def _prefill_span(self, span: Span) -> tuple[PrefillSpan, Tensor]:
        prefill = self._prefill.prepare(span)
        blocks = np.zeros(-(-prefill.length // self._shape.block_tokens), dtype=np.int64)
        if prefill.length:
            blocks[: len(span.block_ids)] = span.block_ids
        return prefill, torch.from_numpy(blocks)

    def attend(self, new: NewTokens, kv: LayerKv, metadata: CpuMetadata) -> Tensor:
        tokens, heads, head_dim = new.query.shape
        out = torch.empty(tokens, heads * head_dim, dtype=new.query.dtype)
        for group in metadata.decode:
            out[group.begin : group.end] = self._decode(new.query[group.begin : group.end], kv, group)
        for prefill, blocks in metadata.prefill:
            out[prefill.span.begin : prefill.span.end] = self._attend_span(new, kv, prefill, blocks)
        return out

    def _decode(self, query: Tensor, kv: LayerKv, group: DecodeGroup) -> Tensor:
        rows, heads, head_dim = query.shape
        folded = query.reshape(rows, self._shape.kv_heads, -1, head_dim)
        keys = self._gather(kv.keys, group.blocks, rows, self._keys)[:, :, : group.length]
        values = self._gather(kv.values, group.blocks, rows, self._values)[:, :, : group.length]
        attended = functional.scaled_dot_product_attention(folded, keys, values, attn_mask=group.mask)
        return attended.reshape(rows, heads * head_dim)

    def _attend_span(self, new: NewTokens, kv: LayerKv, prefill: PrefillSpan, blocks: Tensor) -> Tensor:
        rows = slice(prefill.span.begin, prefill.span.end)
        if prefill.length == 0:
            keys, values = new.key[rows].transpose(0, 1), new.value[rows].transpose(0, 1)
        else:
            keys = self._gather(kv.keys, blocks, 1, self._keys)[0, :, : prefill.length]
            values = self._gather(kv.values, blocks, 1, self._values)[0, :, : prefill.length]
        return self._prefill.attend(new.query[rows], keys, values, prefill)

    def _gather(self, side: Tensor, blocks: Tensor, rows: int, out: Tensor) -> Tensor:
        """Keys or values of `rows` sequences, [rows, kv_heads, whole blocks' tokens, head_dim], a view of `out`."""
        source = side.flatten(1)
        count, width = blocks.numel(), source.shape[1]
        gathered = torch.index_select(source, 0, blocks, out=out[: count * width].view(count, width))
        return gathered.view(rows, -1, self._shape.kv_heads, self._shape.head_dim).transpose(1, 2)
