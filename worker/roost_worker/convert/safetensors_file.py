"""Writes a safetensors file tensor by tensor: `safetensors` itself wants all of them in memory, and torch for bfloat16.

Format: https://github.com/huggingface/safetensors#format (length of the header, JSON header, data).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

_NAMES = {"bfloat16": ("BF16", 2), "float32": ("F32", 4), "float64": ("F64", 8)}


@dataclass(frozen=True, slots=True)
class TensorToWrite:
    """A tensor by its shape and by a function that yields its little-endian bytes when its turn comes."""

    shape: tuple[int, ...]
    data: Callable[[], bytes]


def write_safetensors(
    path: Path, tensors: Mapping[str, TensorToWrite], dtype: str, written: Callable[[float], None] = lambda _: None
) -> None:
    """Writes `tensors`, sorted by name and all of `dtype`; `written` is told the share of bytes done."""
    code, size = _NAMES[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(tensors):
        start, end = end, end + size * prod(tensors[name].shape)
        header[name] = {"dtype": code, "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        done = 0
        for name in sorted(tensors):
            done += file.write(tensors[name].data())
            written(done / end)
        assert done == end
