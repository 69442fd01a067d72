"""The keywords of JSON Schema that constrain values, and what their values must be. Pure."""

import math
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any] | bool

REFERENCE = "#/$defs/"
"""What each reference begins with."""

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
"""Values of `format` that the grammar library enforces; others are annotations."""
SUBSCHEMAS = frozenset(
    {"additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
SUBSCHEMA_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
SUBSCHEMA_MAPS = frozenset({"dependentSchemas", "patternProperties", "properties"})
COMBINATORS = frozenset({"$ref", "allOf", "anyOf", "oneOf", "not", "if"})
"""Keywords that apply further schemas to the same value."""


def map_subschemas(schema: dict[str, Any], change: Callable[[Schema, str], Schema]) -> dict[str, Any]:
    """Return the schema with each schema that is directly in it changed; `change` also gets its JSON pointer."""

    def changed(keyword: str, value: Any) -> Any:
        if keyword in SUBSCHEMAS:
            return change(value, f"/{keyword}")
        if keyword in SUBSCHEMA_LISTS:
            return [change(item, f"/{keyword}/{index}") for index, item in enumerate(value)]
        if keyword in SUBSCHEMA_MAPS:
            return {name: change(item, f"/{keyword}/{escape(name)}") for name, item in value.items()}
        return value

    return {keyword: changed(keyword, value) for keyword, value in schema.items()}


def escape(part: str) -> str:
    """Write a key for a JSON pointer."""
    return part.replace("~", "~0").replace("/", "~1")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_type(value: Any) -> bool:
    types = value if isinstance(value, list) else [value]
    return types != [] and all(isinstance(item, str) and item in TYPES for item in types)


_NUMBER: tuple[Callable[[Any], bool], str] = (_is_number, "a number")
_COUNT: tuple[Callable[[Any], bool], str] = (_is_count, "a whole number of at least 0")
_TEXT: tuple[Callable[[Any], bool], str] = (_is_text, "text")
PLAIN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "const": (lambda _: True, "a value"),
    "$ref": _TEXT,
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(map(_is_texts, value.values())),
        "an object of lists of names",
    ),
    "description": (lambda _: True, "text"),
    "enum": (lambda value: isinstance(value, list), "a list of values"),
    "exclusiveMaximum": _NUMBER,
    "exclusiveMinimum": _NUMBER,
    "format": _TEXT,
    "maxContains": _COUNT,
    "maxItems": _COUNT,
    "maxLength": _COUNT,
    "maxProperties": _COUNT,
    "maximum": _NUMBER,
    "minContains": _COUNT,
    "minItems": _COUNT,
    "minLength": _COUNT,
    "minProperties": _COUNT,
    "minimum": _NUMBER,
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "pattern": _TEXT,
    "required": (_is_texts, "a list of names"),
    "type": (_is_type, f"one or more of {', '.join(TYPES)}"),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
}
"""Other keywords: whether a value is one of the keyword's, and which are, in words."""
COUNTS = frozenset(keyword for keyword, kind in PLAIN.items() if kind is _COUNT)
