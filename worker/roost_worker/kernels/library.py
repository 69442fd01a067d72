"""The compiled kernels as functions of tensors. `source/kernels.h` says what each takes."""

import ctypes
import weakref
from ctypes import POINTER, byref, c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from roost_worker.kernels.structures import PagedKv, Projected

DTYPES = (torch.float32, torch.bfloat16)


class Kernels:
    """The kernels, and the threads that share their work. Used by one thread at a time."""

    def __init__(self, library: Path, threads: int) -> None:
        self._library = _open(library)
        self._threads = self._library.roost_threads_new(threads)
        weakref.finalize(self, self._library.roost_threads_free, self._threads)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Return the root mean square norm (Zhang and Sennrich, 2019) of `x` [rows, size], with `weight` [size]."""
        out = torch.empty_like(x)
        self._library.roost_rms_norm(
            self._threads, x.dtype == torch.bfloat16, x.data_ptr(), weight.data_ptr(), *x.shape, eps, out.data_ptr()
        )
        return out

    def write_heads(self, projected: Projected, kv: PagedKv, query: Tensor) -> None:
        """Norm, rotate and scale a batch's queries, into `query` [tokens, heads, head_dim]; write its keys and values."""
        self._library.roost_write_heads(
            self._threads, query.dtype == torch.bfloat16, byref(projected), byref(kv), query.data_ptr()
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
            query.dtype == torch.bfloat16,
            query.data_ptr(),
            byref(kv),
            heads,
            spans.ctypes.data,
            len(spans),
            tables.ctypes.data,
            out.data_ptr(),
        )
        return out


@cache
def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


_FUNCTIONS = {
    "roost_threads_new": (c_void_p, [c_int]),
    "roost_threads_free": (None, [c_void_p]),
    "roost_rms_norm": (None, [c_void_p, c_int, c_void_p, c_void_p, c_int64, c_int64, c_float, c_void_p]),
    "roost_write_heads": (None, [c_void_p, c_int, POINTER(Projected), POINTER(PagedKv), c_void_p]),
    "roost_attend": (
        None,
        [c_void_p, c_int, c_void_p, POINTER(PagedKv), c_int64, c_void_p, c_int64, c_void_p, c_void_p],
    ),
}
