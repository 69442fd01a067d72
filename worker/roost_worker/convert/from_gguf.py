"""Converts a GGUF file, dequantised by transformers. Only this module imports transformers."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from roost_worker.convert.errors import ConvertError
from roost_worker.convert.gguf_header import GgufHeader
from roost_worker.convert.layout import WEIGHTS, write_json
from roost_worker.convert.progress import Progress
from roost_worker.convert.safetensors_file import TensorToWrite, array_bytes, write_safetensors
from roost_worker.convert.sampling_defaults import gguf_sampling_defaults
from roost_worker.convert.shapes import check_shapes, expected_shapes
from roost_worker.convert.source_config import normalised_config
from roost_worker.convert.tokenization import describe_template
from roost_worker.model.config import parse_config

# transformers ignores tokenizer.ggml.pre. SmolLM splits numbers into digits before ByteLevel (llama.cpp, "smollm").
_SMOLLM = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}


def convert_gguf(source: Path, header: GgufHeader, dtype: str, target: Path, report: Progress) -> None:
    """Write the model of `source`, whose header is `header`, into `target`. Raise ConvertError."""
    report("loading transformers", 0.0)
    model, missing = _load(source, report)
    # The weights are dequantised by now, whatever the config says.
    config = normalised_config({**model.config.to_dict(), "quantization_config": None}, dtype)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name not in missing}
    shapes = expected_shapes(parse_config(config))
    check_shapes(shapes, {name: tuple(tensor.shape) for name, tensor in weights.items()})
    report("reading the tokenizer", 0.5)
    _tokenizer(source, header, config, target)
    tensors = {
        name: TensorToWrite(shape, partial(_tensor_bytes, weights[name], dtype)) for name, shape in shapes.items()
    }
    write_safetensors(target / WEIGHTS, tensors, dtype, lambda share: report("writing weights", 0.8 + share / 5))
    write_json(target / "config.json", config)


def _tensor_bytes(tensor: torch.Tensor, dtype: str) -> bytes:
    return array_bytes(tensor.numpy(), dtype)


def _load(source: Path, report: Progress) -> tuple[Any, frozenset[str]]:
    """Return the model and the names of its tensors that the file does not have."""
    from transformers import AutoModelForCausalLM, GgufConfig

    report("dequantising weights", 0.2)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    # The reader has no exception of its own for a damaged file: it fails wherever the bytes end.
    except (ValueError, IndexError, KeyError, EOFError, TypeError, OverflowError, OSError, RuntimeError) as error:
        raise ConvertError(f"{source.name} is truncated, damaged or of an unknown architecture: {error}") from error
    model, loading = loaded
    return model, frozenset(loading["missing_keys"])


def _tokenizer(source: Path, header: GgufHeader, config: dict[str, Any], target: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    document["padding"] = document["truncation"] = None
    if header.keys.get("tokenizer.ggml.pre") == "smollm":
        document["pre_tokenizer"] = _SMOLLM
    text = json.dumps(document, ensure_ascii=False)
    (target / "tokenizer.json").write_text(text, encoding="utf-8")
    ends = tokenizer.bos_token or "", tokenizer.eos_token or ""
    description = describe_template(text, tokenizer.chat_template or "", *ends, config["eos_token_id"])
    replace(description, sampling=gguf_sampling_defaults(header.keys)).save(target / "template.json")
