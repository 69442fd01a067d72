"""The header of a GGUF file, read in milliseconds: enough to refuse a truncated or unsupported file before transformers
is loaded, and to know what transformers ignores.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from roost_worker.convert.errors import ConvertError

_MAGIC = b"GGUF"
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_STRING = 1 << 24
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `general.architecture` that transformers dequantises and the worker runs."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says about itself."""

    keys: dict[str, Any]
    """Its metadata; arrays are None."""
    tensors: frozenset[str]
    size: int
    """Bytes that the whole file must have."""


_LAYER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")


def check_header(path: Path) -> GgufHeader:
    """Read the header and check that the file can be converted. Raise ConvertError with what is missing."""
    header = read_header(path)
    _refuse_part(path, header)
    architecture = header.keys.get("general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConvertError(f"{path.name} is a {architecture} model; as GGUF files the worker runs {known}")
    if header.keys.get(f"{architecture}.expert_count"):
        raise ConvertError(f"{path.name} is a mixture of experts, which the worker does not run; use a dense model")
    _refuse_scaled_rope(path, header, architecture)
    layers = range(int(header.keys.get(f"{architecture}.block_count") or 0))
    needed = ["token_embd.weight", "output_norm.weight"]
    needed += [f"blk.{layer}.{name}.weight" for layer in layers for name in _LAYER]
    missing = [name for name in needed if name not in header.tensors]
    if missing:
        raise ConvertError(f"{path.name}: missing tensor {', '.join(missing[:3])}; the file is incomplete")
    return header


def _refuse_part(path: Path, header: GgufHeader) -> None:
    """Refuse a file that has a part of the tensors only; behind the first, files have no other metadata."""
    parts = header.keys.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise ConvertError(
            f"{path.name} is one of the {parts} files of a model; join them with llama.cpp's `llama-gguf-split --merge`"
        )


def _refuse_scaled_rope(path: Path, header: GgufHeader, architecture: str) -> None:
    """Refuse what transformers would drop without a word: the model would attend to wrong positions."""
    kind = header.keys.get(f"{architecture}.rope.scaling.type") or "none"
    if kind == "none" and "rope_freqs.weight" in header.tensors:
        kind = "llama3"
    if kind != "none":
        raise ConvertError(f"{path.name}: {kind} rope scaling is not read from GGUF files; use the *.safetensors")


def read_header(path: Path) -> GgufHeader:
    """Read the header. Raise ConvertError when the file is not a GGUF file, or is truncated."""
    length = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        if magic != _MAGIC:
            raise ConvertError(f"{path.name} is not a GGUF file (it begins with {magic!r}); use .gguf or a folder")
        try:
            header = _HeaderReader(file).header()
        except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
            raise ConvertError(f"{path.name} is truncated or damaged: its header cannot be read ({error})") from error
    if length < header.size:
        raise ConvertError(
            f"{path.name} is truncated: it has {length} bytes and needs {header.size}; download it again"
        )
    return header


class _HeaderReader:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def header(self) -> GgufHeader:
        self._scalar("<I")  # version
        tensor_count, key_count = self._scalar("<Q"), self._scalar("<Q")
        keys = dict(self._key() for _ in range(key_count))
        ends = dict(self._tensor() for _ in range(tensor_count))
        alignment = int(keys.get("general.alignment") or 32)
        data = -(-self._file.tell() // alignment) * alignment
        return GgufHeader(keys, frozenset(ends), data + max(ends.values(), default=0))

    def _scalar(self, form: str) -> Any:
        return struct.unpack(form, self._file.read(struct.calcsize(form)))[0]

    def _string(self) -> str:
        length = self._scalar("<Q")
        data = self._file.read(min(length, _MAX_STRING))
        if len(data) < length:
            raise ValueError("a string ends early")
        return data.decode()

    def _key(self) -> tuple[str, Any]:
        return self._string(), self._value(self._scalar("<I"))

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._scalar(_SCALARS[kind])
        inner, count = self._scalar("<I"), self._scalar("<Q")
        if inner in _SCALARS:
            self._file.seek(count * struct.calcsize(_SCALARS[inner]), 1)
        else:
            for _ in range(count):
                self._value(inner)
        return None

    def _tensor(self) -> tuple[str, int]:
        """Read a tensor's entry; return its name and where it ends in the file's data."""
        name = self._string()
        shape = [self._scalar("<Q") for _ in range(self._scalar("<I"))]
        per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(self._scalar("<I"))]
        return name, self._scalar("<Q") + prod(shape) // per_block * block_bytes
