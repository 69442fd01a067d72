"""A WorkerConfig as a plain document (JSON): the same names as the dataclasses, unknown ones refused."""

import json
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from roost_worker.config import EngineConfig, KvConfig, ModelConfig, WorkerConfig

_PARTS = {"model": ModelConfig, "kv": KvConfig, "engine": EngineConfig}


def config_from(document: Mapping[str, Any]) -> WorkerConfig:
    """Raises ValueError naming the field and the fix."""
    values = dict(document)
    for name, kind in _PARTS.items():
        if name in values:
            values[name] = _build(kind, values[name], f"{name}.")
    if values.get("cache_dir") is not None:
        values["cache_dir"] = Path(str(values["cache_dir"]))
    config: WorkerConfig = _build(WorkerConfig, values, "")
    return config


def load_config(path: Path) -> WorkerConfig:
    """Reads a JSON file. Raises OSError, and ValueError naming the file, the field and the fix."""
    try:
        return config_from(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _build(kind: Any, values: Any, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"{prefix.rstrip('.') or 'the document'} must be an object of {', '.join(_names(kind))}")
    for name in values:
        if name not in _names(kind):
            near = get_close_matches(name, _names(kind), 1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(_names(kind))}"
            raise ValueError(f"{prefix}{name} is unknown; {hint}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{prefix}{str(error).replace(f'{kind.__name__}.__init__() ', '')}") from error


def _names(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]
