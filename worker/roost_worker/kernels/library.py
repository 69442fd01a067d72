"""The compiled kernels as functions of tensors. `source/kernels.h` says what each takes."""

import ctypes
import weakref
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roost_worker.kernels.compiler import NoKernelsError
from roost_worker.kernels.int8_weight import Int8Weight
from roost_worker.kernels.structures import PagedKv, Projected

DTYPES = (torch.float32, torch.bfloat16)


class Kernels:
    """The kernels, the threads that share their work, and memory for weights. Used by one thread at a time.

    A kernel raises MemoryError when the system gives no memory for what it needs beside its results.

    Raises:
        NoKernelsError: the library does not load.
    """

    def __init__(self, library: Path, threads: int) -> None:
        self._library = _open(library)
        self._threads = self._library.roost_threads_new(threads)
        self._weights = self._library.roost_weights_new()
        self.units: str = self._library.roost_units().decode()
        """What of the processor they use."""
        self.threads: int = self._library.roost_threads_count(self._threads)
        """As many as asked for, or as the system gives."""
        _free_with(self, self._library.roost_threads_free, self._threads)
        _free_with(self, self._library.roost_weights_free, self._weights)

    def write_heads(self, projected: Projected, kv: PagedKv, query: Tensor) -> None:
        """Norm, rotate and scale queries, into `query` [tokens, heads, head_dim], and write keys and values to `kv`."""
        self._library.roost_write_heads(
            self._threads, _is_bfloat16(query.dtype), byref(projected), byref(kv), query.data_ptr()
        )

    def attend(self, query: Tensor, kv: PagedKv, spans: "np.ndarray", tables: "np.ndarray") -> Tensor:
        """Attend with `query` [tokens, heads, head_dim] to `kv`; return [tokens, heads * head_dim].

        Args:
            spans: [spans, 4] int64: first row, tokens, position of the first, and where its block table begins.
            tables: [blocks] int64: the block tables, one after the other.
        """
        tokens, heads, head_dim = query.shape
        out = query.new_empty(tokens, heads * head_dim)
        self._library.roost_attend(
            self._threads,
            _is_bfloat16(query.dtype),
            query.data_ptr(),
            byref(kv),
            heads,
            spans.ctypes.data,
            len(spans),
            tables.ctypes.data,
            out.data_ptr(),
        )
        return out

    def pack(
        self,
        weight: Tensor | Int8Weight,
        bias: Tensor | None = None,
        *,
        norm: Tensor | None = None,
        eps: float = 0.0,
        gated: bool = False,
    ) -> "PackedLinear":
        """Copy a weight [outputs, inputs] into the layout of `source/panel.h`, and return the product with it.

        Args:
            weight: float32 or bfloat16, as all other tensors of the product must be, or int8 for such.
            bias: [outputs], or None.
            norm: [inputs], the weight of the root mean square norm that x is taken through first, or None.
            eps: that norm's.
            gated: the outputs are gates and then as many values; results are silu(gate) * value (Shazeer, 2020).
        Raises:
            MemoryError: the system gives no memory for the copy.
        """
        values, scales = (weight.values, weight.scales) if isinstance(weight, Int8Weight) else (weight, None)
        values = values.contiguous()
        handle = self._library.roost_linear_new(
            self._threads,
            self._weights,
            _is_bfloat16(weight.dtype),
            values.data_ptr(),
            _address(scales),
            _address(bias),
            _address(norm),
            eps,
            *values.shape,
            gated,
        )
        if handle is None:
            raise MemoryError(f"no memory for a weight of {values.nbytes} bytes")
        product = PackedLinear(self, self._library, self._threads, handle, values.shape[0] // (2 if gated else 1))
        _free_with(product, self._library.roost_linear_free, handle)
        return product


def helper_limits(library: Path, helpers: int, events: Sequence[tuple[int, int, int]]) -> list[int]:
    """Return the most helpers of a job at each of `events`, as `source/helper_limit.h` says.

    An event is a time, what a job with helpers is spared then, and for how long it stalls; in microseconds.
    """
    times, saved, waited = ((c_int64 * len(events))(*column) for column in zip(*events, strict=True))
    limits = (c_int64 * len(events))()
    _open(library).roost_helper_limits(helpers, times, saved, waited, len(events), limits)
    return list(limits)


class PackedLinear:
    """x [rows, inputs] -> gated(norm(x) @ weight.T + bias) + residual, [rows, results]; see `Kernels.pack`.

    Sums are taken in float, in the order of the inputs, and a result is rounded once. So a row has the same bits
    whatever rows it is computed with, on however many threads.
    """

    def __init__(self, kernels: Kernels, library: Any, threads: int, handle: int, results: int) -> None:
        self._kernels = kernels  # which keeps the threads and the weight
        self._run = library.roost_linear
        self._threads = threads
        self._handle = handle
        self._results = results

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Both tensors must be contiguous."""
        rows = x.shape[0]
        out = x.new_empty(rows, self._results)
        self._run(self._threads, self._handle, x.data_ptr(), rows, _address(residual), out.data_ptr())
        return out


def _is_bfloat16(dtype: torch.dtype) -> bool:
    assert dtype in DTYPES, dtype
    return dtype == torch.bfloat16


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _free_with(owner: object, free: Callable[[int], None], handle: int) -> None:
    """Free `handle` when its owner goes, but not at the end of the process, when threads may still use it."""
    weakref.finalize(owner, free, handle).atexit = False


@cache
def _open(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:  # a folder that is mounted without leave to execute, for one
        raise NoKernelsError(f"the compiled kernels do not load: {error}") from error
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
        if name in _KERNELS:
            function.errcheck = _check_memory
    return library


def _check_memory(has_run: int, function: Any, _arguments: object) -> None:
    if not has_run:
        raise MemoryError(f"no memory for the batch in {function.__name__}")


_FUNCTIONS = {
    "roost_units": (c_char_p, []),
    "roost_threads_new": (c_void_p, [c_int]),
    "roost_threads_count": (c_int, [c_void_p]),
    "roost_threads_free": (None, [c_void_p]),
    "roost_helper_limits": (None, [c_int, c_void_p, c_void_p, c_void_p, c_int64, c_void_p]),
    "roost_weights_new": (c_void_p, []),
    "roost_weights_free": (None, [c_void_p]),
    "roost_linear_new": (
        c_void_p,
        [c_void_p, c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_float, c_int64, c_int64, c_int],
    ),
    "roost_linear_free": (None, [c_void_p]),
    "roost_linear": (c_int, [c_void_p, c_void_p, c_void_p, c_int64, c_void_p, c_void_p]),
    "roost_write_heads": (c_int, [c_void_p, c_int, POINTER(Projected), POINTER(PagedKv), c_void_p]),
    "roost_attend": (
        c_int,
        [c_void_p, c_int, c_void_p, POINTER(PagedKv), c_int64, c_void_p, c_int64, c_void_p, c_void_p],
    ),
}
_KERNELS = ("roost_linear", "roost_write_heads", "roost_attend")
"""They return 0 when there is no memory for what they need beside their results."""
