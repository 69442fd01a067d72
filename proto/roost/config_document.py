"""Builds frozen configuration dataclasses from plain documents, by the dataclasses' own annotations. Pure."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Config = TypeVar("_Config", bound="DataclassInstance")
_WORDS: Mapping[Any, str] = {
    NoneType: "null",
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Path: "a path",
    tuple: "a list",
    Mapping: "an object",
}


def from_document(kind: type[_Config], document: object, *, prefix: str = "", folder: Path | None = None) -> _Config:
    """Build the dataclass `kind` from a document that has its fields, as read from JSON or YAML.

    A nested dataclass is an object, a tuple a list, a path a text, which is taken relative to `folder`. Raise
    ValueError for a field that is unknown, missing or of the wrong type; the message names it, after `prefix`, and the
    fix. Errors of the dataclass itself are not caught.
    """
    known = [field.name for field in fields(kind)]
    if not isinstance(document, Mapping):
        raise ValueError(f"{prefix.rstrip('.') or 'the document'} must be an object of {', '.join(known)}")
    for name in document:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"{prefix}{name} is unknown; {hint}")
    for field in fields(kind):
        if field.name not in document and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{prefix}{field.name} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{prefix}{name}", folder) for name, value in document.items()})


def _value(hint: Any, value: Any, name: str, folder: Path | None) -> Any:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return None
    for kind in kinds:
        origin, arguments = get_origin(kind), get_args(kind)
        if is_dataclass(kind) and isinstance(kind, type):
            return from_document(kind, value, prefix=f"{name}.", folder=folder)
        if origin is tuple and isinstance(value, list):
            return tuple(_value(arguments[0], item, f"{name}[{index}]", folder) for index, item in enumerate(value))
        if origin is Mapping and isinstance(value, Mapping):
            return {key: _value(arguments[1], item, f"{name}.{key}", folder) for key, item in value.items()}
        if kind is Path and isinstance(value, str):
            return Path(folder or "", value)
        if _is_scalar(kind, value):
            return value
    words = " or ".join(_WORDS[_scalar_type(kind)] for kind in kinds)
    raise ValueError(f"{name} must be {words}, not {value!r}")


def _is_scalar(kind: Any, value: Any) -> bool:
    if get_origin(kind) in (tuple, Mapping) or isinstance(value, bool) != (kind is bool):
        return False
    return isinstance(value, (int, float) if kind is float else _scalar_type(kind))


def _scalar_type(kind: Any) -> Any:
    """Return the type that the annotation `kind` stands for: of a Literal its values' type."""
    origin = get_origin(kind)
    return type(get_args(kind)[0]) if origin is Literal else origin or kind
