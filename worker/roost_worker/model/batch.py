"""A batch plan as tensors, which all layers of a forward pass share. Rows are tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roost_worker.engine.plan import Chunk


@dataclass(frozen=True, slots=True)
class Span:
    """Rows begin .. begin + tokens of the batch: one sequence's tokens at positions start .. start + tokens."""

    begin: int
    tokens: int
    start: int
    block_ids: "np.ndarray"

    @property
    def end(self) -> int:
        return self.begin + self.tokens

    @property
    def length(self) -> int:
        """Tokens of the sequence after this batch."""
        return self.start + self.tokens


@dataclass(frozen=True, slots=True)
class BatchTensors:
    """One mixed batch. Decode rows come first, shortest sequence first, then the prefill spans."""

    token_ids: Tensor
    """[tokens] int64."""
    positions: Tensor
    """[tokens] int64."""
    kv_blocks: Tensor
    """[tokens] int64: the block that each token's KV is written to."""
    kv_offsets: Tensor
    """[tokens] int64: its place in that block."""
    sample_rows: Tensor
    """[draws] int64: rows to compute logits for, in the plan's order, and before each guess those of one chunk."""
    decode: tuple[Span, ...]
    prefill: tuple[Span, ...]


def build_batch(chunks: Sequence[Chunk], block_tokens: int, device: torch.device) -> BatchTensors:
    """Lay out a plan's chunks as tensors. `chunks` must not be empty."""
    order = sorted(range(len(chunks)), key=lambda index: _layout_key(chunks[index]))
    spans: list[Span] = []
    begin = 0
    for index in order:
        spans.append(_span(chunks[index], begin))
        begin += spans[-1].tokens
    ends = dict(zip(order, (span.end for span in spans), strict=True))
    sample_rows = [row for i, chunk in enumerate(chunks) for row in range(ends[i] - chunk.draws, ends[i])]
    positions = np.concatenate([np.arange(span.start, span.length) for span in spans])
    return BatchTensors(
        token_ids=to_device(np.concatenate([np.asarray(chunks[index].token_ids) for index in order]), device),
        positions=to_device(positions, device),
        kv_blocks=to_device(np.concatenate([_blocks_written(span, block_tokens) for span in spans]), device),
        kv_offsets=to_device(positions % block_tokens, device),
        sample_rows=to_device(np.array(sample_rows), device),
        decode=tuple(span for span in spans if span.tokens == 1),
        prefill=tuple(span for span in spans if span.tokens > 1),
    )


def _layout_key(chunk: Chunk) -> tuple[bool, int]:
    is_prefill = len(chunk.token_ids) > 1
    return is_prefill, 0 if is_prefill else chunk.start


def _span(chunk: Chunk, begin: int) -> Span:
    return Span(begin, len(chunk.token_ids), chunk.start, np.asarray(chunk.block_ids))


def _blocks_written(span: Span, block_tokens: int) -> "np.ndarray":
    blocks: np.ndarray = span.block_ids[np.arange(span.start, span.length) // block_tokens]
    return blocks


def block_tables(spans: Sequence[Span]) -> "np.ndarray":
    """Return the spans' blocks, [spans, most blocks of any] int64; padding is the null block."""
    tables = np.zeros((len(spans), max(len(span.block_ids) for span in spans)), dtype=np.int64)
    for row, span in enumerate(spans):
        tables[row, : len(span.block_ids)] = span.block_ids
    return tables


def to_device(values: "np.ndarray", device: torch.device) -> Tensor:
    """Return `values` as int64 on the device; on the CPU, int64 values are not copied."""
    tensor = torch.from_numpy(values.astype(np.int64, copy=False))
    # From pinned memory a GPU copies asynchronously.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
