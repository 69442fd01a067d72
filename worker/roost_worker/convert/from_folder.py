"""Converts a folder of Hugging Face files (config.json, safetensors, tokenizer.json), casting weights with numpy."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from roost_worker.convert.errors import ConvertError
from roost_worker.convert.fetch import Progress
from roost_worker.convert.layout import WEIGHTS, write_json
from roost_worker.convert.safetensors_file import (
    StoredTensor,
    TensorToWrite,
    cast,
    open_safetensors,
    write_safetensors,
)
from roost_worker.convert.shapes import check_shapes, expected_shapes, normalised_config
from roost_worker.convert.tokenization import describe_template, read_template, read_tool_template, token_text
from roost_worker.render.errors import RenderError
from roost_worker.render.vocabulary import Vocabulary


def convert_folder(source: Path, dtype: str, target: Path, report: Progress) -> None:
    """Write the model of `source` into `target`, in the store's layout. Raise ConvertError."""
    config = normalised_config(_config(source), dtype)
    report("reading weights", 0.0)
    stored = _open(source)
    shapes = expected_shapes(config)
    check_shapes(shapes, {name: tensor.shape for name, tensor in stored.items()})
    tensors = {name: TensorToWrite(shape, partial(_read, name, stored[name], dtype)) for name, shape in shapes.items()}
    write_safetensors(target / WEIGHTS, tensors, dtype, lambda share: report("writing weights", share))
    write_json(target / "config.json", config)
    _tokenizer(source, config, target)


def _read(name: str, tensor: StoredTensor, dtype: str) -> bytes:
    if tensor.dtype is None:
        raise ConvertError(f"tensor {name} is {tensor.code}: quantised weights are not supported, use the bf16 model")
    return cast(tensor.read(), tensor.dtype, dtype)


def _config(source: Path) -> dict[str, Any]:
    for name in ("config.json", "tokenizer.json"):
        if not (source / name).is_file():
            raise ConvertError(f"{source} has no {name}; it must hold config.json, tokenizer.json and *.safetensors")
    try:
        return dict(json.loads((source / "config.json").read_bytes()))
    except ValueError as error:
        raise ConvertError(f"{source / 'config.json'} is not JSON: {error}") from error


def _open(source: Path) -> dict[str, StoredTensor]:
    paths = sorted(source.glob("*.safetensors"))
    if not paths:
        raise ConvertError(f"{source} has no *.safetensors file")
    return {name: tensor for path in paths for name, tensor in _open_file(path).items()}


def _open_file(path: Path) -> dict[str, StoredTensor]:
    try:
        return open_safetensors(path)
    except ValueError as error:
        raise ConvertError(f"{path} is truncated or not a safetensors file: {error}") from error


def _tokenizer(source: Path, config: dict[str, Any], target: Path) -> None:
    try:
        Vocabulary.from_file(source / "tokenizer.json")
    except RenderError as error:
        raise ConvertError(str(error)) from error
    if (source / "template.json").is_file():  # a prepared model, cast to another dtype
        shutil.copyfile(source / "template.json", target / "template.json")
    else:
        eos = _generation_eos(source) or config["eos_token_id"]
        texts = token_text(source, "bos_token"), token_text(source, "eos_token")
        document = (source / "tokenizer.json").read_text(encoding="utf-8")
        templates = read_template(source), read_tool_template(source)
        describe_template(document, templates[0], *texts, eos, templates[1]).save(target / "template.json")
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")


def _generation_eos(source: Path) -> int | list[int] | None:
    path = source / "generation_config.json"
    value = json.loads(path.read_bytes()).get("eos_token_id") if path.exists() else None
    return value if isinstance(value, (int, list)) else None
