"""Attention by torch's operators: KV of rows of similar length is gathered into scratch memory for one SDPA call.

A decode row is one query per head against a long KV. The query heads that share a KV head become the queries of one
attention, so that their keys are read once. On CPUs, with scratch that fits the CPU's cache, that takes 0.6 of the time
of matmul, softmax, matmul over keys transposed to head-major order (AVX512-BF16, 2,048 keys), 0.25 without bf16 units,
and 0.7 in float32. On GPUs the number of kernel launches matters most, so the scratch is large.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roost_worker.model.attention_prefill import MatmulPrefill, PrefillSpan, SdpaPrefill
from roost_worker.model.batch import BatchTensors, Span, block_tables, to_device
from roost_worker.model.heads import Heads, NewTokens
from roost_worker.model.kv_cache import KvShape, KvSide, LayerKv
from roost_worker.model.precision import has_bfloat16_units
from roost_worker.model.rotary import RotaryTable

SCRATCH_BYTES = {"cpu": 7 << 19, "cuda": 256 << 20}
"""Bytes of the gathered keys of one group of rows; the values take as many again."""
RESTORED_BYTES = 64 << 20
"""Most bytes of the float32 copy from which int8 is restored. A copy of the whole scratch would be twice its size in 16
bits, and no memory is set aside for it."""
FEWEST_ROWS = 2
"""Similar rows to group whatever their size: the KV heads of a single row keep threads busy unevenly."""
QUERY_TILE = 4
PADDED_QUERIES = {torch.float32: (2, 3), torch.bfloat16: (1, 2, 3)}
"""Numbers of queries per KV head that are padded to a tile on CPUs: two or three take up to 1.6 times as long as four,
and one in bfloat16 up to 2.8 times."""
PADDING_SHARE = 0.25
"""Most padding of a group's shortest row, as a share of the longest row."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Decode rows begin .. end of the batch, attended to together."""

    begin: int
    end: int
    length: int
    """Tokens of the longest row."""
    blocks: Tensor
    """[rows * blocks of the longest row] int64; padding is the null block."""
    mask: Tensor | None
    """[rows, 1, 1, length], -inf at padding; None without padding."""


@dataclass(frozen=True, slots=True)
class GatheredMetadata:
    """What all layers share of one batch."""

    batch: BatchTensors
    decode: tuple[DecodeGroup, ...]
    prefill: tuple[tuple[PrefillSpan, Tensor], ...]
    """Each with the blocks to gather, [length / block_tokens] int64."""


def group_rows(lengths: Sequence[int], scratch_tokens: int) -> list[tuple[int, int]]:
    """Group rows of ascending `lengths` into [begin, end) of similar length that fit the scratch, longest first."""
    groups = []
    end = len(lengths)
    while end > 0:
        longest = lengths[end - 1]
        most = max(FEWEST_ROWS, scratch_tokens // longest)
        begin = end - 1
        while begin > 0 and end - begin < most and _similar(lengths[begin - 1], longest):
            begin -= 1
        groups.append((begin, end))
        end = begin
    return groups


def _similar(shorter: int, longest: int) -> bool:
    return longest - shorter <= max(32, longest * PADDING_SHARE)


class GatheredAttention:
    """The backend of GPUs, and of CPUs without compiled kernels; see AttentionBackend."""

    def __init__(self, shape: KvShape, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = shape
        self._dtype = dtype
        self._device = device
        self._scratch_tokens = SCRATCH_BYTES[device.type] // (shape.kv_heads * shape.head_dim * dtype.itemsize)
        self._keys = self._values = torch.empty(0, dtype=dtype, device=device)
        use_matmul = device.type == "cpu" and dtype == torch.bfloat16 and has_bfloat16_units()
        self._padded_queries = PADDED_QUERIES.get(dtype, ()) if device.type == "cpu" else ()
        self._prefill = (
            MatmulPrefill(shape, dtype) if use_matmul else SdpaPrefill(dtype, device, reads_own_keys=shape.is_int8)
        )

    def prepare(self, batch: BatchTensors) -> GatheredMetadata:
        lengths = [span.length for span in batch.decode]
        decode = tuple(
            self._decode_group(batch.decode[b:e], b, e) for b, e in group_rows(lengths, self._scratch_tokens)
        )
        prefill = tuple(self._prefill_span(span) for span in batch.prefill)
        self._make_room(max([g.blocks.numel() for g in decode] + [blocks.numel() for _, blocks in prefill], default=0))
        return GatheredMetadata(batch, decode, prefill)

    def _make_room(self, blocks: int) -> None:
        size = blocks * self._shape.block_tokens * self._shape.kv_heads * self._shape.head_dim
        if size > self._keys.numel():
            self._keys, self._values = (torch.empty(size, dtype=self._dtype, device=self._device) for _ in range(2))

    def _decode_group(self, spans: Sequence[Span], begin: int, end: int) -> DecodeGroup:
        lengths = np.array([span.length for span in spans])
        longest = int(lengths[-1])
        mask = None if int(lengths[0]) == longest else self._padding_mask(lengths)
        return DecodeGroup(begin, end, longest, to_device(block_tables(spans).reshape(-1), self._device), mask)

    def _padding_mask(self, lengths: "np.ndarray") -> Tensor:
        ends = to_device(lengths, self._device)[:, None]
        padded = torch.arange(int(lengths[-1]), device=self._device) >= ends
        mask = torch.zeros(padded.shape, dtype=self._dtype, device=self._device).masked_fill_(padded, float("-inf"))
        return mask[:, None, None]

    def _prefill_span(self, span: Span) -> tuple[PrefillSpan, Tensor]:
        prefill = self._prefill.prepare(span)
        blocks = np.zeros(-(-prefill.length // self._shape.block_tokens), dtype=np.int64)
        if prefill.length:
            blocks[: len(span.block_ids)] = span.block_ids
        return prefill, to_device(blocks, self._device)

    def attend(self, qkv: Tensor, heads: Heads, rotary: RotaryTable, kv: LayerKv, metadata: GatheredMetadata) -> Tensor:
        new = heads.split(qkv, rotary)
        kv.write(metadata.batch.kv_blocks, metadata.batch.kv_offsets, new.key, new.value)
        return self._attend(new, kv, metadata)

    def _attend(self, new: NewTokens, kv: LayerKv, metadata: GatheredMetadata) -> Tensor:
        tokens, heads, head_dim = new.query.shape
        out = new.query.new_empty(tokens, heads * head_dim)
        if metadata.decode:
            # The first group has the longest rows, which come last in the batch.
            self._decode(new.query[: metadata.decode[0].end], kv, metadata.decode, out)
        for prefill, blocks in metadata.prefill:
            out[prefill.span.begin : prefill.span.end] = self._attend_span(new, kv, prefill, blocks)
        return out

    def _fold(self, query: Tensor) -> Tensor:
        """Group queries [rows, heads, head_dim] by KV head, [rows, kv_heads, queries or tile, head_dim]."""
        folded = query.reshape(query.shape[0], self._shape.kv_heads, -1, query.shape[2])
        group = folded.shape[2]
        if group not in self._padded_queries:
            return folded
        return functional.pad(folded, (0, 0, 0, QUERY_TILE - group))

    def _decode(self, query: Tensor, kv: LayerKv, groups: Sequence[DecodeGroup], out: Tensor) -> None:
        folded = self._fold(query)
        heads_of_kv = query.shape[1] // self._shape.kv_heads
        by_kv_head = out.view(len(out), self._shape.kv_heads, heads_of_kv, -1)
        for group in groups:
            rows = slice(group.begin, group.end)
            count = group.end - group.begin
            keys = self._gather(kv.keys, group.blocks, count, self._keys)[:, :, : group.length]
            values = self._gather(kv.values, group.blocks, count, self._values)[:, :, : group.length]
            attended = functional.scaled_dot_product_attention(folded[rows], keys, values, attn_mask=group.mask)
            by_kv_head[rows] = attended[:, :, :heads_of_kv]

    def _attend_span(self, new: NewTokens, kv: LayerKv, prefill: PrefillSpan, blocks: Tensor) -> Tensor:
        rows = slice(prefill.span.begin, prefill.span.end)
        if prefill.length == 0:
            keys, values = new.key[rows].transpose(0, 1), new.value[rows].transpose(0, 1)
        else:
            keys = self._gather(kv.keys, blocks, 1, self._keys)[0, :, : prefill.length]
            values = self._gather(kv.values, blocks, 1, self._values)[0, :, : prefill.length]
        return self._prefill.attend(new.query[rows], keys, values, prefill)

    def _gather(self, side: KvSide, blocks: Tensor, rows: int, out: Tensor) -> Tensor:
        """Gather keys or values of `rows` sequences, [rows, kv_heads, tokens of whole blocks, head_dim], into `out`."""
        source = side.numbers.flatten(1)
        count, width = blocks.numel(), source.shape[1]
        gathered = out[: count * width].view(count, width)
        if side.scales is None:
            torch.index_select(source, 0, blocks, out=gathered)
        else:
            blocks_at_once = max(1, RESTORED_BYTES // (width * torch.float32.itemsize))
            parts = (torch.split(tensor, blocks_at_once) for tensor in (blocks, gathered))
            for some_blocks, room in zip(*parts, strict=True):
                room.copy_(side.gather(some_blocks, self._dtype).flatten(1))
        return gathered.view(rows, -1, self._shape.kv_heads, self._shape.head_dim).transpose(1, 2)
