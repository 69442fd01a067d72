"""Attention by compiled kernels, on CPUs: they read paged KV where it lies, and keep it in an order of their own.

The layout is `kernels/source/paged_kv.h`'s. An output depends on its query and on its sequence's KV up to its position
only, bit for bit: it is the same for a decode row as in a prefill chunk of any length, beside any other rows, on any
number of threads.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roost_worker.kernels.library import DTYPES, Kernels
from roost_worker.kernels.structures import PagedKv, Projected
from roost_worker.model.attention import AttentionBackend
from roost_worker.model.attention_gathered import GatheredAttention
from roost_worker.model.batch import BatchTensors
from roost_worker.model.heads import Heads
from roost_worker.model.kv_cache import KvShape, LayerKv
from roost_worker.model.rotary import RotaryTable


@dataclass(frozen=True, slots=True)
class KernelMetadata:
    """What all layers share of one batch."""

    batch: BatchTensors
    spans: "np.ndarray"
    """[spans, 4] int64: first row, tokens, position of the first token, and where its block table begins."""
    tables: "np.ndarray"
    """[blocks of all sequences] int64."""


class KernelAttention:
    """The backend of CPUs with compiled kernels; see AttentionBackend."""

    def __init__(self, shape: KvShape, kernels: Kernels) -> None:
        self._shape = shape
        self._kernels = kernels

    def prepare(self, batch: BatchTensors) -> KernelMetadata:
        spans = (*batch.decode, *batch.prefill)
        begins = np.cumsum([0, *(len(span.block_ids) for span in spans)])
        table = [(span.begin, span.tokens, span.start, begin) for span, begin in zip(spans, begins, strict=False)]
        tables = np.concatenate([span.block_ids for span in spans]).astype(np.int64)
        return KernelMetadata(batch, np.array(table, dtype=np.int64), tables)

    def attend(self, qkv: Tensor, heads: Heads, rotary: RotaryTable, kv: LayerKv, metadata: KernelMetadata) -> Tensor:
        paged = self._paged(kv)
        query = qkv.new_empty(qkv.shape[0], heads.share.heads, heads.head_dim)
        self._kernels.write_heads(_projected(qkv, heads, rotary, metadata.batch), paged, query)
        return self._kernels.attend(query, paged, metadata.spans, metadata.tables)

    def _paged(self, kv: LayerKv) -> PagedKv:
        numbers = kv.keys.numbers
        return PagedKv(
            keys=numbers.data_ptr(),
            values=kv.values.numbers.data_ptr(),
            key_scales=_address(kv.keys.scales),
            value_scales=_address(kv.values.scales),
            block_bytes=numbers.stride(0) * numbers.element_size(),
            block_tokens=self._shape.block_tokens,
            kv_heads=self._shape.kv_heads,
            head_dim=self._shape.head_dim,
        )


def attention_backend(
    shape: KvShape, dtype: torch.dtype, device: torch.device, kernels: Kernels | None
) -> AttentionBackend:
    """Return the kernels' attention where there are `kernels` for `dtype`, else the one that gathers."""
    if kernels is not None and device.type == "cpu" and dtype in DTYPES:
        return KernelAttention(shape, kernels)
    return GatheredAttention(shape, dtype, device)


def _projected(qkv: Tensor, heads: Heads, rotary: RotaryTable, batch: BatchTensors) -> Projected:
    """Return addresses, which are valid as long as the arguments live."""
    assert qkv.is_contiguous()
    return Projected(
        qkv=qkv.data_ptr(),
        tokens=qkv.shape[0],
        heads=heads.share.heads,
        query_norm=_address(None if heads.query_norm is None else heads.query_norm.weight),
        key_norm=_address(None if heads.key_norm is None else heads.key_norm.weight),
        eps=0.0 if heads.query_norm is None else heads.query_norm.eps,
        cos=_address(rotary.cos if heads.rotates else None),
        signed_sin=_address(rotary.sin if heads.rotates else None),
        query_scale=_address(rotary.query_scale),
        blocks=batch.kv_blocks.data_ptr(),
        offsets=batch.kv_offsets.data_ptr(),
    )


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
