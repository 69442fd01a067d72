"""The paged KV cache: one tensor, cut into blocks, with views for every layer.

Layout `[blocks, layers, 2, block_tokens, kv_heads_local, head_dim]`, so that a block with all its layers is one
contiguous run of memory. In int8 it is `[blocks, layers, 2, bytes]`: the numbers in the order above, and then their
scales, `[block_tokens, kv_heads_local]` float32. Block 0 is the null block: padding refers to it, and it is never
written, so it stays zero. A backend may use the bytes of a block's keys, and those of its values, in an order of its
own.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from roost_worker.model.config import ModelConfigError
from roost_worker.model.int8_kv import SCALE_BYTES, restored, rounded

AUTO_CPU_SHARE = 0.25
AUTO_CPU_LIMIT = 4 << 30
AUTO_CUDA_SHARE = 0.85


@dataclass(frozen=True, slots=True)
class KvShape:
    """Sizes of one rank's cache."""

    num_blocks: int
    layers: int
    block_tokens: int
    kv_heads: int
    head_dim: int
    is_int8: bool = False
    """Whether keys and values are rounded to int8; otherwise they are in the dtype of what is computed."""

    @property
    def side(self) -> tuple[int, ...]:
        """Dimensions of the keys, or of the values, of one block and layer."""
        rows, numbers = self.block_tokens * self.kv_heads, (self.block_tokens, self.kv_heads, self.head_dim)
        return (rows * (self.head_dim + SCALE_BYTES),) if self.is_int8 else numbers

    @property
    def dimensions(self) -> tuple[int, ...]:
        return (self.num_blocks, self.layers, 2, *self.side)


@dataclass(frozen=True, slots=True)
class KvSide:
    """One layer's keys, or its values, in the order of `AttentionBackend`s that gather."""

    numbers: Tensor
    """[blocks, block_tokens, kv_heads, head_dim]; contiguous within a block, not from block to block."""
    scales: Tensor | None = None
    """[blocks, block_tokens, kv_heads] float32, if the numbers are int8."""

    def write(self, blocks: Tensor, offsets: Tensor, rows: Tensor) -> None:
        """Write `rows` [tokens, kv_heads, head_dim] as `LayerKv.write` does."""
        if self.scales is None:
            self.numbers.index_put_((blocks, offsets), rows)
            return
        numbers, scales = rounded(rows)
        self.numbers.index_put_((blocks, offsets), numbers)
        self.scales.index_put_((blocks, offsets), scales)

    def gather(self, blocks: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows of `blocks`, [blocks, block_tokens, kv_heads, head_dim].

        `dtype` is what keys and values are computed in, to which int8 is restored.
        """
        numbers = self.numbers.index_select(0, blocks)
        return numbers if self.scales is None else restored(numbers, self.scales.index_select(0, blocks), dtype)


@dataclass(frozen=True, slots=True)
class LayerKv:
    """One layer's keys and values: views of the cache's tensor."""

    keys: KvSide
    values: KvSide

    @classmethod
    def of(cls, tensor: Tensor, shape: KvShape) -> "LayerKv":
        """Return the views of one layer's part of a cache, [blocks, 2, ...]."""
        return cls(_side(tensor[:, 0], shape), _side(tensor[:, 1], shape))

    def write(self, blocks: Tensor, offsets: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write keys and values [tokens, kv_heads, head_dim] at `offsets` [tokens] in `blocks` [tokens]."""
        self.keys.write(blocks, offsets, keys)
        self.values.write(blocks, offsets, values)


def _side(part: Tensor, shape: KvShape) -> KvSide:
    if not shape.is_int8:
        return KvSide(part)
    rows = (shape.num_blocks, shape.block_tokens, shape.kv_heads)
    count = shape.block_tokens * shape.kv_heads
    numbers, scales = torch.split(part, [count * shape.head_dim, count * SCALE_BYTES], dim=1)
    return KvSide(numbers.view(*rows, shape.head_dim), scales.view(torch.float32).view(rows))


class PagedKvCache:
    """This rank's KV blocks. Raises RuntimeError or MemoryError when there is not enough memory."""

    def __init__(self, shape: KvShape, dtype: torch.dtype, device: torch.device) -> None:
        """Allocate blocks for keys and values that are computed in `dtype`."""
        self.shape = shape
        self.dtype = dtype
        self.tensor = _zeros(shape.dimensions, torch.int8 if shape.is_int8 else dtype, device)
        self.layers = tuple(LayerKv.of(self.tensor[:, layer], shape) for layer in range(shape.layers))


def _zeros(dimensions: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(dimensions, dtype=dtype, device=device)
    # numpy gets zeroed pages from the kernel as they are touched; torch would write all of them now.
    size = int(np.prod(dimensions)) * dtype.itemsize
    return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(dtype).view(dimensions)


def bytes_per_block(shape: KvShape, dtype: torch.dtype) -> int:
    """Return the bytes of one block over all layers, of keys and values that are computed in `dtype`."""
    return math.prod(shape.dimensions[1:]) * (1 if shape.is_int8 else dtype.itemsize)


def blocks_that_fit(memory: int, block_bytes: int, block_tokens: int, context_tokens: int) -> int:
    """Return how many blocks `memory` bytes hold, including the null block.

    Args:
        memory, block_bytes: of all ranks together.
        context_tokens: at least one sequence of this length must fit.
    Raises:
        ModelConfigError: that sequence does not fit; the message names the bytes needed.
    """
    needed = (-(-context_tokens // block_tokens) + 1) * block_bytes
    if memory < needed:
        raise ModelConfigError(
            f"kvCache.memory: {memory} bytes hold {max(0, memory // block_bytes - 1) * block_tokens} tokens, but one "
            f"session of contextTokens {context_tokens} needs {needed} bytes; raise it or lower contextTokens"
        )
    return memory // block_bytes


def host_slots(memory: int, block_bytes: int, free: int) -> int:
    """Return how many blocks `memory` bytes of host memory hold.

    Args:
        memory, block_bytes: of all ranks together.
        free: bytes that are free for them.
    Raises:
        ModelConfigError: not even one block fits, or there is less free; the message names the bytes.
    """
    if memory < block_bytes:
        raise ModelConfigError(
            f"kvCache.hostMemory: {memory} bytes do not hold one block of {block_bytes} bytes; raise it, or use 0 for "
            "no host memory"
        )
    if memory > free:
        raise ModelConfigError(
            f"kvCache.hostMemory: {memory} bytes are more than the {free} bytes that are free beside weights and KV "
            "memory; lower it, or give the worker more memory"
        )
    return memory // block_bytes


def automatic_memory(device: torch.device, world: int) -> int:
    """Return the bytes for one rank's blocks when kvCache.memory is `auto`: a share of what is free now."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what loading has left behind
        return int(torch.cuda.mem_get_info(device)[0] * AUTO_CUDA_SHARE)
    return min(int(free_host_memory() * AUTO_CPU_SHARE), AUTO_CPU_LIMIT) // world


def free_host_memory() -> int:
    """Return the bytes that are free on the machine and, in a container, within its memory limit (cgroup v2)."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free
