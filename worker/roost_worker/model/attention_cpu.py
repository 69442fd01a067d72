"""Attention tuned for CPUs: decode as gather, matmul, softmax, matmul over groups of rows; prefill as SDPA.

A decode row is one query per head against a long KV: SDPA's tiles are wasted on it. Rows of like length are taken
together, their KV is gathered head-major into scratch small enough to stay in the cache, and the query heads that
share a KV head become the rows of one matmul.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roost_worker.model.attention import NewTokens, attend_sequence, causal_mask, sequence_rows
from roost_worker.model.batch import Batch, Span
from roost_worker.model.kv_cache import KvShape, LayerKv, row_index

SCRATCH_BYTES = 2 << 20
"""Gathered keys of one group of rows; as much again for the values."""
PADDING_SHARE = 0.25
"""Most padding of the shortest row of a group, as a share of the longest."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Decode rows begin .. end of the batch, taken together, padded to `length`."""

    begin: int
    end: int
    length: int
    kv_rows: Tensor
    """[rows * kv_heads * length]; padding points into the null block."""
    mask: Tensor | None
    """[rows * kv_heads, 1, length], -inf at padding; None when there is none."""


@dataclass(frozen=True, slots=True)
class PrefillSpan:
    """One prefill chunk. Without a prefix its KV is this step's own, and `kv_rows` and `mask` are None."""

    span: Span
    kv_rows: Tensor | None
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class CpuMetadata:
    """What all layers of a step share."""

    decode: tuple[DecodeGroup, ...]
    prefill: tuple[PrefillSpan, ...]


def group_rows(lengths: Sequence[int], scratch_tokens: int) -> list[tuple[int, int]]:
    """Cuts rows of ascending `lengths` into groups [begin, end) of like length that fit the scratch, longest first."""
    groups = []
    end = len(lengths)
    while end > 0:
        longest = lengths[end - 1]
        begin = end - 1
        while begin > 0 and (end - begin + 1) * longest <= scratch_tokens and _alike(lengths[begin - 1], longest):
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
        self._scale = shape.head_dim**-0.5
        self._scratch_tokens = SCRATCH_BYTES // (shape.kv_heads * shape.head_dim * dtype.itemsize)
        self._keys = self._scratch(self._scratch_tokens)
        self._values = self._scratch(self._scratch_tokens)

    def _scratch(self, tokens: int) -> Tensor:
        return torch.empty(tokens * self._shape.kv_heads, self._shape.head_dim, dtype=self._dtype)

    def prepare(self, batch: Batch) -> CpuMetadata:
        lengths = [span.length for span in batch.decode]
        decode = tuple(
            self._decode_group(batch.decode[b:e], b, e) for b, e in group_rows(lengths, self._scratch_tokens)
        )
        prefill = tuple(self._prefill_span(span) for span in batch.prefill)
        largest = max([g.kv_rows.numel() for g in decode] + [_numel(p.kv_rows) for p in prefill], default=0)
        if largest > self._keys.shape[0]:
            self._keys = self._scratch(-(-largest // self._shape.kv_heads))
            self._values = torch.empty_like(self._keys)
        return CpuMetadata(decode, prefill)

    def _decode_group(self, spans: Sequence[Span], begin: int, end: int) -> DecodeGroup:
        shape = self._shape
        lengths = np.array([span.length for span in spans])
        longest = int(lengths[-1])
        table = np.zeros((len(spans), -(-longest // shape.block_tokens)), dtype=np.int64)
        for row, span in enumerate(spans):
            table[row, : len(span.block_ids)] = span.block_ids
        offsets = np.arange(shape.block_tokens)
        first = row_index(table[:, :, None], offsets, shape).reshape(len(spans), 1, -1)[:, :, :longest]
        rows = (first + np.arange(shape.kv_heads)[:, None]).reshape(-1)
        mask = None if lengths[0] == longest else self._padding_mask(lengths, longest)
        return DecodeGroup(begin, end, longest, torch.from_numpy(rows), mask)

    def _padding_mask(self, lengths: "np.ndarray", longest: int) -> Tensor:
        padded = torch.from_numpy(np.arange(longest) >= lengths[:, None])
        mask = torch.zeros(padded.shape, dtype=self._dtype).masked_fill_(padded, float("-inf"))
        return mask.repeat_interleave(self._shape.kv_heads, dim=0).unsqueeze(1)

    def _prefill_span(self, span: Span) -> PrefillSpan:
        if span.start == 0:
            return PrefillSpan(span, None, None)
        rows = torch.from_numpy(sequence_rows(span, self._shape).reshape(-1))
        return PrefillSpan(span, rows, causal_mask(span, self._dtype, torch.device("cpu")))

    def attend(self, new: NewTokens, kv: LayerKv, metadata: CpuMetadata) -> Tensor:
        tokens, heads, head_dim = new.query.shape
        out = torch.empty(tokens, heads * head_dim, dtype=new.query.dtype)
        for group in metadata.decode:
            out[group.begin : group.end] = self._decode(new.query[group.begin : group.end], kv, group)
        for prefill in metadata.prefill:
            out[prefill.span.begin : prefill.span.end] = self._prefill(new, kv, prefill)
        return out

    def _decode(self, query: Tensor, kv: LayerKv, group: DecodeGroup) -> Tensor:
        rows, heads, head_dim = query.shape
        folded = (query * self._scale).view(rows * self._shape.kv_heads, -1, head_dim)
        keys, values = self._gather(kv, group.kv_rows, group.length)
        scores = torch.bmm(folded, keys.transpose(1, 2))
        if group.mask is not None:
            scores += group.mask
        return torch.bmm(torch.softmax(scores, dim=-1), values).view(rows, heads * head_dim)

    def _prefill(self, new: NewTokens, kv: LayerKv, prefill: PrefillSpan) -> Tensor:
        begin, end = prefill.span.begin, prefill.span.end
        if prefill.kv_rows is None:
            key, value = new.key[begin:end].transpose(0, 1), new.value[begin:end].transpose(0, 1)
            return attend_sequence(new.query[begin:end], key, value, None, causal=True)
        key, value = self._gather(kv, prefill.kv_rows, prefill.span.length)
        return attend_sequence(new.query[begin:end], key, value, prefill.mask, causal=False)

    def _gather(self, kv: LayerKv, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values, each [rows * kv_heads, length, head_dim], in scratch that the next gather overwrites."""
        size = rows.numel()
        keys = torch.index_select(kv.keys, 0, rows, out=self._keys[:size])
        values = torch.index_select(kv.values, 0, rows, out=self._values[:size])
        form = (-1, length, self._shape.head_dim)
        return keys.view(form), values.view(form)


def _numel(rows: Tensor | None) -> int:
    return 0 if rows is None else rows.numel()
