"""Attention tuned for CPUs: decode as gather, matmul, softmax, matmul over groups of rows; prefill by sequence.

A decode row is one query per head against a long KV: SDPA's tiles are wasted on it. Rows of like length are taken
together, their blocks are gathered into scratch small enough to stay in the cache and turned head-major there, and the
query heads that share a KV head become the rows of one matmul. Whole blocks are twice as fast to gather as the rows of
one head, by more than the turning costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roost_worker.model.attention import NewTokens
from roost_worker.model.attention_prefill import MatmulPrefill, PrefillSpan, SdpaPrefill
from roost_worker.model.batch import Batch, Span
from roost_worker.model.kv_cache import KvShape, LayerKv
from roost_worker.model.lengths import padded_length

SCRATCH_BYTES = 3 << 20
"""Gathered keys of one group of rows; three times as much is used in all."""
PADDING_SHARE = 0.25
"""Most padding of the shortest row of a group, as a share of the longest."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Decode rows begin .. end of the batch, taken together, padded to `length`."""

    begin: int
    end: int
    length: int
    blocks: Tensor
    """[rows * length / block_tokens] int64; padding is the null block."""
    mask: Tensor | None
    """[rows * kv_heads, 1, length], -inf at padding; None when there is none."""


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
        self._resize(self._scratch_tokens)
        self._prefill = MatmulPrefill(shape, dtype) if dtype == torch.bfloat16 else SdpaPrefill(dtype)

    def _resize(self, tokens: int) -> None:
        size = tokens * self._shape.kv_heads * self._shape.head_dim
        self._blocks, self._keys, self._values = (torch.empty(size, dtype=self._dtype) for _ in range(3))

    def prepare(self, batch: Batch) -> CpuMetadata:
        lengths = [span.length for span in batch.decode]
        decode = tuple(
            self._decode_group(batch.decode[b:e], b, e) for b, e in group_rows(lengths, self._scratch_tokens)
        )
        prefill = tuple(self._prefill_span(span) for span in batch.prefill)
        largest = max([g.blocks.numel() for g in decode] + [blocks.numel() for _, blocks in prefill], default=0)
        if largest * self._shape.block_tokens > self._scratch_tokens:
            self._scratch_tokens = largest * self._shape.block_tokens
            self._resize(self._scratch_tokens)
        return CpuMetadata(decode, prefill)

    def _decode_group(self, spans: Sequence[Span], begin: int, end: int) -> DecodeGroup:
        lengths = np.array([span.length for span in spans])
        longest = padded_length(int(lengths[-1]), self._shape.block_tokens)
        table = np.zeros((len(spans), longest // self._shape.block_tokens), dtype=np.int64)
        for row, span in enumerate(spans):
            table[row, : len(span.block_ids)] = span.block_ids
        mask = None if int(lengths[0]) == longest else self._padding_mask(lengths, longest)
        return DecodeGroup(begin, end, longest, torch.from_numpy(table.reshape(-1)), mask)

    def _padding_mask(self, lengths: "np.ndarray", longest: int) -> Tensor:
        padded = torch.from_numpy(np.arange(longest) >= lengths[:, None])
        mask = torch.zeros(padded.shape, dtype=self._dtype).masked_fill_(padded, float("-inf"))
        return mask.repeat_interleave(self._shape.kv_heads, dim=0).unsqueeze(1)

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
        folded = (query * self._scale).view(rows * self._shape.kv_heads, -1, head_dim)
        keys = self._head_major(kv.keys, group, self._keys)
        values = self._head_major(kv.values, group, self._values)
        scores = torch.bmm(folded, keys.transpose(1, 2))
        if group.mask is not None:
            scores += group.mask
        return torch.bmm(torch.softmax(scores, dim=-1), values).view(rows, heads * head_dim)

    def _attend_span(self, new: NewTokens, kv: LayerKv, prefill: PrefillSpan, blocks: Tensor) -> Tensor:
        rows = slice(prefill.span.begin, prefill.span.end)
        if prefill.length == 0:
            keys, values = new.key[rows].transpose(0, 1), new.value[rows].transpose(0, 1)
        else:
            keys = self._sequence(kv.keys, blocks, prefill.length, self._keys)
            values = self._sequence(kv.values, blocks, prefill.length, self._values)
        return self._prefill.attend(new.query[rows], keys, values, prefill)

    def _head_major(self, side: Tensor, group: DecodeGroup, out: Tensor) -> Tensor:
        """Keys or values of a group, [rows * kv_heads, length, head_dim], in `out`."""
        kv_heads, head_dim = self._shape.kv_heads, self._shape.head_dim
        gathered = self._gather(side, group.blocks, self._blocks).view(-1, group.length, kv_heads, head_dim)
        turned = out[: gathered.numel()].view(-1, kv_heads, group.length, head_dim)
        return turned.copy_(gathered.transpose(1, 2)).view(-1, group.length, head_dim)

    def _sequence(self, side: Tensor, blocks: Tensor, length: int, out: Tensor) -> Tensor:
        """Keys or values of one sequence, [kv_heads, length, head_dim], in `out`."""
        gathered = self._gather(side, blocks, out).view(-1, self._shape.kv_heads, self._shape.head_dim)
        return gathered[:length].transpose(0, 1)

    def _gather(self, side: Tensor, blocks: Tensor, out: Tensor) -> Tensor:
        """[blocks, block_tokens * kv_heads * head_dim], in `out`."""
        source = side.flatten(1)
        count, width = blocks.numel(), source.shape[1]
        return torch.index_select(source, 0, blocks, out=out[: count * width].view(count, width))
