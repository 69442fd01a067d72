"""The paged KV cache: one tensor, cut into blocks, with views for every layer.

Layout `[blocks, layers, 2, block_tokens, kv_heads_local, head_dim]`, so that a block with all its layers is one
contiguous run of memory. Block 0 is the null block: padding refers to it, and it is never written, so it stays zero.
A backend may use the bytes of a block's keys, and those of its values, in an order of its own.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from roost_worker.model.config import DecoderConfig, ModelConfigError

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

    @property
    def dimensions(self) -> tuple[int, ...]:
        return (self.num_blocks, self.layers, 2, self.block_tokens, self.kv_heads, self.head_dim)


@dataclass(frozen=True, slots=True)
class LayerKv:
    """One layer's keys and values: views of `kv[:, layer]`, in the order of `AttentionBackend`s that gather."""

    keys: Tensor
    """[blocks, block_tokens, kv_heads, head_dim]; contiguous within a block, not from block to block."""
    values: Tensor

    def write(self, blocks: Tensor, offsets: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write keys and values [tokens, kv_heads, head_dim] at `offsets` [tokens] in `blocks` [tokens]."""
        self.keys.index_put_((blocks, offsets), keys)
        self.values.index_put_((blocks, offsets), values)


class PagedKvCache:
    """This rank's KV blocks. Raises RuntimeError or MemoryError when there is not enough memory."""

    def __init__(self, shape: KvShape, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        self.tensor = _zeros(shape.dimensions, dtype, device)
        self.layers = tuple(LayerKv(self.tensor[:, i, 0], self.tensor[:, i, 1]) for i in range(shape.layers))


def _zeros(dimensions: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(dimensions, dtype=dtype, device=device)
    # numpy gets zeroed pages from the kernel as they are touched; torch would write all of them now.
    size = int(np.prod(dimensions)) * dtype.itemsize
    return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(dtype).view(dimensions)


def bytes_per_block(config: DecoderConfig, kv_heads: int, block_tokens: int, dtype: torch.dtype) -> int:
    """Return the bytes of one block with `kv_heads` heads, over all layers."""
    return config.num_layers * 2 * block_tokens * kv_heads * config.head_dim * dtype.itemsize


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
