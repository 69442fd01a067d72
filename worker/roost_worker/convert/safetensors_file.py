"""Safetensors files without torch: tensors are read by mmap, cast with numpy and written one at a time.

`safetensors` itself needs torch for bfloat16, whose import takes longer than converting a small model.
Format: https://github.com/huggingface/safetensors#format (length of the header, JSON header, data).
"""

import json
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}
_NAMES = {code: name for name, code in _CODES.items()}
_SIZES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
_MAX_HEADER = 100_000_000


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file. `read` returns its little-endian bytes, `code` is safetensors' name of its dtype."""

    shape: tuple[int, ...]
    code: str
    read: Callable[[], memoryview]

    @property
    def dtype(self) -> str | None:
        """The dtype's name if `cast` supports it (floating point); otherwise None."""
        return _NAMES.get(self.code)


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file, by name. Raise ValueError when it is truncated or not a safetensors file."""
    with path.open("rb") as file:
        try:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError as error:
            raise ValueError("it is empty") from error
    length = int.from_bytes(data[:8], "little")
    if length > min(_MAX_HEADER, len(data) - 8):
        raise ValueError("its header is longer than the file")
    header = json.loads(bytes(data[8 : 8 + length]))
    header.pop("__metadata__", None)
    return {name: _stored(entry, data[8 + length :]) for name, entry in header.items()}


def _stored(entry: dict[str, Any], data: memoryview) -> StoredTensor:
    try:
        start, end = entry["data_offsets"]
        shape, code = tuple(entry["shape"]), str(entry["dtype"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"an entry of its header is incomplete: {error}") from error
    if end > len(data):
        raise ValueError(f"it ends {end - len(data)} bytes early")
    if code in _NAMES and end - start != prod(shape) * _SIZES[_NAMES[code]]:
        raise ValueError("a tensor's size does not fit its shape")
    return StoredTensor(shape, code, lambda: data[start:end])


def cast(data: memoryview | bytes, dtype: str, to: str) -> bytes:
    """Return the bytes of a tensor in another floating-point dtype, rounded to nearest even."""
    if dtype == to:
        return bytes(data)
    if dtype == "bfloat16":
        wide = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        wide = np.frombuffer(data, f"<f{_SIZES[dtype]}")
    return array_bytes(wide, to)


def array_bytes(values: "NDArray[np.floating[Any]]", dtype: str) -> bytes:
    """Return the little-endian bytes of an array in `dtype`."""
    if dtype != "bfloat16":
        return bytes(values.astype(f"<f{_SIZES[dtype]}").tobytes())
    # bfloat16 is the upper half of a float32; numpy has no such type.
    bits = values.astype("<f4").view("<u4")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return bytes(np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2").tobytes())


@dataclass(frozen=True, slots=True)
class TensorToWrite:
    """A tensor's shape, and a function that returns its little-endian bytes when they are to be written."""

    shape: tuple[int, ...]
    data: Callable[[], bytes]


def write_safetensors(
    path: Path, tensors: Mapping[str, TensorToWrite], dtype: str, progress: Callable[[float], None] = lambda _: None
) -> None:
    """Write `tensors`, sorted by name and all of `dtype`; `progress` is called with the share of bytes written."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(tensors):
        start, end = end, end + _SIZES[dtype] * prod(tensors[name].shape)
        header[name] = {"dtype": _CODES[dtype], "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        written = 0
        for name in sorted(tensors):
            written += file.write(tensors[name].data())
            progress(written / end)
        assert written == end
