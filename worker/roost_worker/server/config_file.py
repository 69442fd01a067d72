"""A WorkerConfig as a plain document (JSON): the same names as the dataclasses, unknown ones refused."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from roost_worker.config import EngineConfig, GrammarConfig, KvConfig, ModelConfig, WorkerConfig

_WORDS: dict[type, str] = {NoneType: "null", str: "text", int: "a whole number", float: "a number", Path: "a path"}
_PARTS = {"model": ModelConfig, "kv": KvConfig, "engine": EngineConfig, "grammar": GrammarConfig}


def config_from(document: Mapping[str, Any]) -> WorkerConfig:
    """Raises ValueError naming the field and the fix."""
    values = dict(document)
    for name, kind in _PARTS.items():
        if name in values:
            values[name] = build(kind, values[name], f"{name}.")
    if values.get("cache_dir") is not None:
        values["cache_dir"] = Path(str(values["cache_dir"]))
    config: WorkerConfig = build(WorkerConfig, values, "")
    return config


def load_config(path: Path) -> WorkerConfig:
    """Reads a JSON file. Raises OSError, and ValueError naming the file, the field and the fix."""
    try:
        return config_from(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def build(kind: Any, values: Any, prefix: str) -> Any:
    """A dataclass from its document; `prefix` stands before its fields in messages. Raises ValueError as above."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{prefix.rstrip('.') or 'the document'} must be an object of {', '.join(_names(kind))}")
    for name in values:
        if name not in _names(kind):
            near = get_close_matches(name, _names(kind), 1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(_names(kind))}"
            raise ValueError(f"{prefix}{name} is unknown; {hint}")
    for field in fields(kind):
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{prefix}{field.name} is missing")
    _check_types(kind, values, prefix)
    return kind(**values)


def _check_types(kind: Any, values: Mapping[str, Any], prefix: str) -> None:
    hints = get_type_hints(kind)
    for name, value in values.items():
        allowed = _types(hints[name])
        if isinstance(value, bool) or not isinstance(value, (*allowed, int) if float in allowed else allowed):
            words = " or ".join(_WORDS[one] for one in allowed if one in _WORDS)
            raise ValueError(f"{prefix}{name} must be {words}, not {value!r}")


def _types(hint: Any) -> tuple[type, ...]:
    """Types that an annotation allows."""
    if get_origin(hint) is Literal:
        return tuple({type(one) for one in get_args(hint)})
    if get_args(hint):
        return tuple(one for part in get_args(hint) for one in _types(part))
    return (hint,)


def _names(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]
