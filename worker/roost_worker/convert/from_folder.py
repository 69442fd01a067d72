"""Converts a folder of Hugging Face files (config.json, safetensors, tokenizer.json), casting weights with numpy."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from roost_worker.convert.errors import ConvertError
from roost_worker.convert.layout import WEIGHTS, write_json
from roost_worker.convert.progress import Progress
from roost_worker.convert.safetensors_file import (
    StoredTensor,
    TensorToWrite,
    cast,
    open_safetensors,
    write_safetensors,
)
from roost_worker.convert.sampling_defaults import end_token_ids, read_generation_config, sampling_defaults
from roost_worker.convert.shapes import EMBEDDING, HEAD, check_shapes, expected_shapes
from roost_worker.convert.source_config import is_wrapped, normalised_config, read_config
from roost_worker.convert.tokenization import describe_template, read_template, read_tool_template, token_text
from roost_worker.convert.weight_files import tensor_names, weight_paths
from roost_worker.model.config import parse_config
from roost_worker.render.errors import RenderError
from roost_worker.render.vocabulary import Vocabulary


def convert_folder(source: Path, dtype: str, target: Path, report: Progress) -> None:
    """Write the model of `source` into `target`, in the store's layout. Raise ConvertError."""
    document = read_config(source)
    config = normalised_config(document, dtype)
    report("reading weights", 0.0)
    opened = {name: tensor for path in weight_paths(source) for name, tensor in _open_file(path).items()}
    stored = tensor_names(opened, wrapped=is_wrapped(document), tied=config["tie_word_embeddings"])
    if config["tie_word_embeddings"] and _has_own_head(stored):
        config["tie_word_embeddings"] = False
    shapes = expected_shapes(parse_config(config))
    check_shapes(shapes, {name: tensor.shape for name, tensor in stored.items()})
    tensors = {name: TensorToWrite(shape, partial(_read, name, stored[name], dtype)) for name, shape in shapes.items()}
    write_safetensors(target / WEIGHTS, tensors, dtype, lambda share: report("writing weights", share))
    write_json(target / "config.json", config)
    _tokenizer(source, config, target)


def _has_own_head(stored: dict[str, StoredTensor]) -> bool:
    """Return whether a head differs from the embedding. transformers then keeps it, whatever the config says."""
    head, embedding = stored.get(HEAD), stored.get(EMBEDDING)
    if head is None or embedding is None:
        return False
    if (head.shape, head.code) != (embedding.shape, embedding.code):
        return True
    return not np.array_equal(np.frombuffer(head.read(), "u1"), np.frombuffer(embedding.read(), "u1"))


def _read(name: str, tensor: StoredTensor, dtype: str) -> bytes:
    if tensor.dtype is None:
        raise ConvertError(f"tensor {name} is {tensor.code}: quantised weights are not supported, use the bf16 model")
    return cast(tensor.read(), tensor.dtype, dtype)


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
        generation = read_generation_config(source)
        texts = token_text(source, "bos_token"), token_text(source, "eos_token")
        document = (source / "tokenizer.json").read_text(encoding="utf-8")
        ends = list(end_token_ids(generation)) or config["eos_token_id"]
        description = describe_template(document, read_template(source), *texts, ends, read_tool_template(source))
        replace(description, sampling=sampling_defaults(generation)).save(target / "template.json")
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
