"""Reads the fields of a JSON document with their types. Pure."""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "a list", dict: "a map"}
_Value = TypeVar("_Value")


def field_value(fields: Mapping[str, Any], where: str, key: str, default: _Value) -> _Value:
    """The field, of the default's type; an int will do for a float."""
    value = fields.get(key)
    if value is None:
        return default
    kind = type(default)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"{where}{key} must be {_KINDS[kind]}, not {value!r:.80}")
    return cast(_Value, value)
