"""What the llama.cpp peer needs beside Roost's environment: node-llama-cpp with its built binary, and the weights as a
GGUF of Q8_0. Made once, in a folder that git ignores. Needs Node.js 20 and npm."""

import subprocess
import sys
from pathlib import Path

import gguf

from roost_worker.convert.fetch import fetch
from roost_worker.convert.source import parse_source

VERSION = "3.22.1"
# Only this platform's binary: npm would also fetch those with CUDA and Vulkan, 700 MB.
PACKAGES = (f"node-llama-cpp@{VERSION}", f"@node-llama-cpp/linux-x64@{VERSION}")


def install_llamacpp(folder: Path) -> None:
    """Install node-llama-cpp into `folder` unless it is there (a minute)."""
    ready = folder / f".ready-{VERSION}"
    if ready.exists():
        return
    print(f"making {folder} with node-llama-cpp {VERSION} …", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    # Its install script would look for a binary on the network, although one is in the package.
    options = ("--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--loglevel=error", "--save-exact")
    subprocess.run(["npm", "install", *options, *PACKAGES], cwd=folder, check=True, stdout=sys.stderr)
    ready.touch()


def q8_weights(source: str, folder: Path) -> Path:
    """Return a GGUF in `folder` with the weights of the GGUF that `source` names, matrices in Q8_0. Written once."""
    written = folder / "weights.Q8_0.gguf"
    if written.exists():
        return written
    folder.mkdir(parents=True, exist_ok=True)
    original = fetch(parse_source(source), folder / "source", lambda stage, share: None)
    scratch = written.with_suffix(".part")
    _requantize(original, scratch)
    scratch.rename(written)
    return written


def _requantize(original: Path, written: Path) -> None:
    """Copy a GGUF with every matrix in Q8_0. What is in 4 bits keeps its values but for Q8_0's rounding."""
    reader = gguf.GGUFReader(original)
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(written, architecture)
    for field in reader.fields.values():
        _copy_field(field, writer)
    q8 = gguf.GGMLQuantizationType.Q8_0
    for tensor in reader.tensors:
        if len(tensor.shape) == 1 or tensor.tensor_type == q8:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        else:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, q8), raw_dtype=q8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_field(field: gguf.ReaderField, writer: gguf.GGUFWriter) -> None:
    if field.name.startswith("GGUF.") or field.name == gguf.Keys.General.ARCHITECTURE:
        return  # GGUFWriter writes these itself.
    value = field.contents()
    if field.name == gguf.Keys.General.FILE_TYPE:
        value = gguf.LlamaFileType.MOSTLY_Q8_0
    element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
    writer.add_key_value(field.name, value, field.types[0], element)
