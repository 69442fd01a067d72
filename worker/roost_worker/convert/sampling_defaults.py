"""A model's own sampling, from `generation_config.json` or a GGUF header."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roost_worker.convert.errors import ConvertError
from roost_worker.convert.json_file import read_object
from roost_worker.model.config import ModelConfigError, token_ids
from roost_worker.render.description import SAMPLING_FIELDS

_GGUF_KEYS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}


def read_generation_config(folder: Path) -> dict[str, Any]:
    """Return a folder's `generation_config.json`; empty without one. Raise ConvertError unless it is a JSON object."""
    return read_object(folder / "generation_config.json")


def end_token_ids(generation: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids that end a turn by a `generation_config.json`, if it names any. Raise ConvertError for others."""
    try:
        return token_ids(generation, "eos_token_id", "generation_config.json")
    except ModelConfigError as error:
        raise ConvertError(str(error)) from error


def sampling_defaults(generation: Mapping[str, Any]) -> dict[str, float]:
    """Return the fields of `SAMPLING_FIELDS` that a `generation_config.json` sets.

    `do_sample: false` is temperature 0, and true without a temperature is 1, as in transformers. A temperature without
    `do_sample` counts. Raise ConvertError, naming field and value, for a value that no step may have.
    """
    values = {name: generation[name] for name in SAMPLING_FIELDS if generation.get(name) is not None}
    do_sample = generation.get("do_sample")
    if do_sample not in (None, True, False):
        raise ConvertError(f"generation_config.json: do_sample must be true or false, not {do_sample!r:.200}")
    if do_sample is False:
        values["temperature"] = 0.0
    elif do_sample:
        values.setdefault("temperature", 1.0)
    if values.get("top_k") == -1:
        values["top_k"] = 0
    for name, value in values.items():
        if not _is_valid(name, value):
            raise ConvertError(f"generation_config.json: {name} {value!r:.200} is out of range; correct or remove it")
    return values


def gguf_sampling_defaults(keys: Mapping[str, Any]) -> dict[str, float]:
    """Return the fields that the metadata of a GGUF file sets. Raise ConvertError as `sampling_defaults` does."""
    return sampling_defaults({name: keys[key] for key, name in _GGUF_KEYS.items() if key in keys})


def _is_valid(name: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return False
    match name:
        case "temperature":
            return value >= 0
        case "top_p":
            return 0 < value <= 1
        case "min_p":
            return 0 <= value <= 1
        case "top_k":
            return isinstance(value, int) and 0 <= value < 1 << 32
    return value > 0
