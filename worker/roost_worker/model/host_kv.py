"""Copies of KV blocks in host memory, each with a checksum that is verified when the block is restored.

On a GPU the memory is pinned, and copies run on a stream of their own beside the batch's computation, which waits for
blocks that leave the device only, since it may write them. On a CPU the same code copies at once.
"""

import time
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from roost_worker.engine.plan import HostCopy
from roost_worker.model.config import ModelConfigError
from roost_worker.model.device_time import timed_event
from roost_worker.model.kv_cache import PagedKvCache


class Copied(NamedTuple):
    """What became of the copies of one batch."""

    intact: tuple[bool, ...] = ()
    """For each restore, in order: whether the block is what was put there."""
    seconds: float = 0.0
    """How long all of them took."""


class HostKv:
    """This rank's part of the blocks in host memory.

    Raises ModelConfigError when there is not enough memory.
    """

    def __init__(self, slots: int, cache: PagedKvCache) -> None:
        self._cache = cache.tensor
        device = self._cache.device
        pinned = slots > 0 and device.type == "cuda"
        self.tensor = _host_memory((slots, *self._cache.shape[1:]), self._cache.dtype, pinned=pinned)
        """[slots, ...]: each slot is as a block of the cache."""
        self._sums = torch.zeros(slots, dtype=torch.int64, device=device)
        words = self._cache[0].numel() * self._cache.element_size() // 8
        self._weights = torch.arange(words if slots else 0, dtype=torch.int64, device=device) * 2 + 1
        self._stream: torch.cuda.Stream | None = None
        if pinned:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no type for it
        self._intact: list[Tensor] = []
        self._seconds = 0.0
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    @torch.inference_mode()
    def start(self, copies: Sequence[HostCopy]) -> None:
        """Make `copies`, in order; on a GPU only begin with them, after all that was computed before."""
        if copies and self._stream is not None:
            self._events = self._start_on(self._stream, copies)
        elif copies:
            started = time.perf_counter()
            self._copy_all(copies)
            self._seconds = time.perf_counter() - started

    @torch.inference_mode()
    def finish(self) -> Copied:
        """Wait for the copies that were started last."""
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            intact = tuple(map(bool, torch.stack(self._intact).tolist())) if self._intact else ()
        if self._events is not None:
            begin, end = self._events
            end.synchronize()
            self._seconds = begin.elapsed_time(end) / 1000
        copied = Copied(intact, self._seconds)
        self._intact, self._seconds, self._events = [], 0.0, None
        return copied

    def _start_on(
        self, stream: torch.cuda.Stream, copies: Sequence[HostCopy]
    ) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        """Begin with `copies` on a stream; return the events of their begin and end."""
        computing = torch.cuda.current_stream(self._cache.device)
        begin, end = timed_event(), timed_event()
        last_offload = max((number for number, copy in enumerate(copies, 1) if not copy.restore), default=0)
        stream.wait_stream(computing)
        with torch.cuda.stream(stream):
            begin.record()
            self._copy_all(copies[:last_offload])
            computing.wait_stream(stream)
            self._copy_all(copies[last_offload:])
            end.record()
        return begin, end

    def _copy_all(self, copies: Sequence[HostCopy]) -> None:
        for copy in copies:
            block, slot = self._cache[copy.block], self.tensor[copy.slot]
            if copy.restore:
                block.copy_(slot, non_blocking=True)
                self._intact.append(self._checksum(block) == self._sums[copy.slot])
            else:
                slot.copy_(block, non_blocking=True)
                self._sums[copy.slot] = self._checksum(block)

    def _checksum(self, block: Tensor) -> Tensor:
        """Return a sum modulo 2^64 of the block's 64-bit words, each with an odd weight of its own.

        Any change within one word changes it, and another change with a probability of 1 - 2^-64. It is computed on the
        device, so that it covers the way to host memory and back, at several times the speed of a CRC.
        """
        words = block.view(-1).view(torch.int64)
        # Integers have no dot product on a GPU. On a CPU it takes neither a temporary tensor nor several threads.
        return (words * self._weights).sum() if words.is_cuda else torch.dot(words, self._weights)


def _host_memory(dimensions: tuple[int, ...], dtype: torch.dtype, *, pinned: bool) -> Tensor:
    try:
        # Written now, all of it: a copy into pages that the kernel has yet to give takes many times as long.
        memory = torch.zeros(dimensions, dtype=dtype)
        if pinned:
            _pin(memory)
        return memory
    except (RuntimeError, MemoryError) as error:
        raise ModelConfigError(
            f"kvCache.hostMemory: a rank does not get its part ({error}); lower it, or give the worker more memory"
        ) from error


def _pin(memory: Tensor) -> None:
    """Lock the pages of `memory` until it is gone, so that a GPU copies them beside its computation.

    `pin_memory` of torch (2.15) takes the next power of two instead, up to twice the bytes that the pool asks for.
    Raise RuntimeError when the driver refuses.
    """
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # as above
    address = memory.data_ptr()
    torch.cuda.check_error(runtime.cudaHostRegister(address, memory.nbytes, 0))
    weakref.finalize(memory, runtime.cudaHostUnregister, address).atexit = False
