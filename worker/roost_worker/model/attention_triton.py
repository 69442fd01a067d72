"""Attention by Triton kernels, on GPUs: they read paged KV where it lies, so that nothing is gathered.

All that varies from batch to batch is in tensors, apart from their sizes: so a CUDA graph of a decode step serves every
batch of as many rows (`decode_steps.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
from torch import Tensor

from roost_worker.model.batch import BatchTensors, Span, block_tables, to_device
from roost_worker.model.heads import Heads
from roost_worker.model.kv_cache import KvShape, LayerKv
from roost_worker.model.norm import RMSNorm
from roost_worker.model.precision import triton_multiplies_in_float32
from roost_worker.model.rotary import RotaryTable
from roost_worker.triton_kernels.attention import attend_segments, attend_tiles, merge_segments
from roost_worker.triton_kernels.heads import write_heads

PREFILL_ROWS = 64
"""Most queries of a prefill tile, over the heads that share a KV head."""
SMALLEST_SIDE = 16
"""Of a product of tensor cores."""
MOST_KEYS, KEY_TILE_BYTES = 64, 16 << 10
"""Of a tile of keys: shared memory has several of keys and of values, and smaller GPUs have 99 KB of it."""
SEGMENT_TOKENS, MOST_SEGMENTS = 512, 64
"""Of a decode row. Behind long contexts segments are longer."""
_WARP_NUMBERS = 1024
"""Of a program of `write_heads`: 32 registers of each thread for each of the numbers that it keeps."""


@dataclass(frozen=True, slots=True)
class TritonMetadata:
    """What all layers share of one batch. Tiles are [tiles, 4] int64, as in `triton_kernels/attention.py`."""

    batch: BatchTensors
    decode: Tensor
    """Tiles of one token each; they are the batch's first rows."""
    prefill: Tensor
    tables: Tensor
    """[sequences, most blocks] int64."""


class TritonAttention:
    """The backend of `engine.kernels: triton`; see AttentionBackend."""

    def __init__(
        self,
        shape: KvShape,
        heads: int,
        dtype: torch.dtype,
        device: torch.device,
        context_tokens: int,
        *,
        batch_invariant: bool = False,
    ) -> None:
        """Prepare for `heads` heads of queries on this rank, and contexts of at most `context_tokens`.

        With `batch_invariant`, a decode row is a tile like those of prefill: its output's bits are the same as those of
        the same token in a chunk of any length, beside any other rows.
        """
        self._batch_invariant = batch_invariant
        self._shape = shape
        self._heads = heads
        self._group = heads // shape.kv_heads
        self._device = device
        self._wide = triton_multiplies_in_float32(dtype, device)
        self._segments = min(MOST_SEGMENTS, triton.cdiv(context_tokens, SEGMENT_TOKENS))
        self._dims = max(SMALLEST_SIDE, triton.next_power_of_2(shape.head_dim))
        self._keys = keys_of_tile(self._dims, dtype)
        self._decode_rows = max(SMALLEST_SIDE, triton.next_power_of_2(self._group))
        self._prefill_rows = max(PREFILL_ROWS, self._decode_rows)
        self._head_rows = triton.next_power_of_2(heads + 2 * shape.kv_heads)
        self._head_warps = min(16, max(4, self._head_rows * self._dims // _WARP_NUMBERS))
        self._scale = shape.head_dim**-0.5 * math.log2(math.e)

    def prepare(self, batch: BatchTensors) -> TritonMetadata:
        spans = (*batch.decode, *batch.prefill)
        decode = _tiles(batch.decode, 1, 0)
        prefill = _tiles(batch.prefill, self._prefill_rows // self._group, len(batch.decode))
        if self._batch_invariant:
            decode, prefill = decode[:0], np.concatenate((decode, prefill))
        return TritonMetadata(
            batch,
            decode=to_device(decode, self._device),
            prefill=to_device(prefill, self._device),
            tables=to_device(block_tables(spans), self._device),
        )

    def prepare_step(self, batch: BatchTensors, tiles: Tensor, tables: Tensor) -> TritonMetadata:
        """Return the metadata of a decode step of a static shape, which holds these tensors: tiles [rows, 4] of one
        token each, and block tables [rows, most blocks of any sequence]."""
        no_tiles = tiles[:0]
        decode, prefill = (no_tiles, tiles) if self._batch_invariant else (tiles, no_tiles)
        return TritonMetadata(batch, decode, prefill, tables)

    def attend(self, qkv: Tensor, heads: Heads, rotary: RotaryTable, kv: LayerKv, metadata: TritonMetadata) -> Tensor:
        query = self._write_heads(qkv, heads, rotary, kv, metadata.batch)
        out = torch.zeros_like(query)  # rows that pad the batch are not written
        if len(metadata.decode):
            self._decode(query, kv, metadata, out)
        if len(metadata.prefill):
            self._prefill(query, kv, metadata, out)
        return out.view(len(out), -1)

    def _write_heads(self, qkv: Tensor, heads: Heads, rotary: RotaryTable, kv: LayerKv, batch: BatchTensors) -> Tensor:
        assert qkv.is_contiguous()
        tokens, kv_heads, head_dim = len(qkv), self._shape.kv_heads, self._shape.head_dim
        query = qkv.new_empty(tokens, self._heads, head_dim)
        write_heads[(tokens,)](
            qkv, query, *_addressed(kv),
            _weight(heads.query_norm, qkv), _weight(heads.key_norm, qkv), rotary.cos, rotary.sin,
            qkv if rotary.query_scale is None else rotary.query_scale,
            batch.kv_blocks, batch.kv_offsets,
            0.0 if heads.query_norm is None else heads.query_norm.eps, *_strides(kv),
            HEADS=self._heads, KV_HEADS=kv_heads, HEAD_DIM=head_dim,
            ROWS=self._head_rows, DIMS=self._dims, num_warps=self._head_warps,
            NORMS=heads.query_norm is not None, ROTATES=heads.rotates, SCALES=rotary.query_scale is not None,
        )  # fmt: skip
        return query

    def _decode(self, query: Tensor, kv: LayerKv, metadata: TritonMetadata, out: Tensor) -> None:
        tiles, segments = len(metadata.decode), self._segments
        sums = query.new_empty(tiles, self._heads, segments, self._shape.head_dim, dtype=torch.float32)
        tops, totals = (query.new_empty(tiles, self._heads, segments, dtype=torch.float32) for _ in range(2))
        attend_segments[(tiles, self._shape.kv_heads, segments)](
            query, *_addressed(kv), sums, tops, totals, metadata.decode, metadata.tables,
            metadata.tables.stride(0), *_strides(kv), self._scale,
            SEGMENTS=segments, LEAST=SEGMENT_TOKENS, ROWS=self._decode_rows, **self._constants(),
        )  # fmt: skip
        merge_segments[(tiles, self._heads)](
            sums, tops, totals, out, metadata.decode,
            SEGMENTS=segments, LEAST=SEGMENT_TOKENS, HEADS=self._heads, HEAD_DIM=self._shape.head_dim, DIMS=self._dims,
        )  # fmt: skip

    def _prefill(self, query: Tensor, kv: LayerKv, metadata: TritonMetadata, out: Tensor) -> None:
        attend_tiles[(len(metadata.prefill), self._shape.kv_heads)](
            query, *_addressed(kv), out, metadata.prefill, metadata.tables,
            metadata.tables.stride(0), *_strides(kv), self._scale,
            ROWS=self._prefill_rows, **self._constants(),
        )  # fmt: skip

    def _constants(self) -> dict[str, int | bool]:
        return {
            "KV_HEADS": self._shape.kv_heads,
            "GROUP": self._group,
            "HEAD_DIM": self._shape.head_dim,
            "DIMS": self._dims,
            "BLOCK_TOKENS": self._shape.block_tokens,
            "KEYS": self._keys,
            "WIDE": self._wide,
        }


def keys_of_tile(dims: int, dtype: torch.dtype) -> int:
    """Return how many keys of `dims` numbers a tile has, a power of two."""
    return max(SMALLEST_SIDE, min(MOST_KEYS, KEY_TILE_BYTES // (dims * dtype.itemsize)))


def _tiles(spans: Sequence[Span], tokens: int, first_table: int) -> "np.ndarray":
    """Cut spans into tiles of at most `tokens`; their block tables begin with the row `first_table`."""
    tiles = [
        (row, min(tokens, span.end - row), span.start + row - span.begin, table)
        for table, span in enumerate(spans, first_table)
        for row in range(span.begin, span.end, tokens)
    ]
    return np.array(tiles, dtype=np.int64).reshape(-1, 4)


def _addressed(kv: LayerKv) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return keys, values and the scales of both. Kernels want tensors also where they do not read them."""
    keys, values = kv.keys, kv.values
    return (
        keys.numbers,
        values.numbers,
        keys.numbers if keys.scales is None else keys.scales,
        values.numbers if values.scales is None else values.scales,
    )


def _strides(kv: LayerKv) -> tuple[int, int]:
    """Return how many numbers, and how many scales, a block is from the next."""
    return kv.keys.numbers.stride(0), 0 if kv.keys.scales is None else kv.keys.scales.stride(0)


def _weight(norm: RMSNorm | None, unread: Tensor) -> Tensor:
    """Return a norm's weight. Kernels want a tensor also where they do not read it."""
    return unread if norm is None else norm.weight
