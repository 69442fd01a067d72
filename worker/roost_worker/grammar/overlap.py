"""Which values of two schemas may be the same, as far as types, constants and required keys show it. Pure."""

from collections.abc import Hashable, Iterable
from typing import Any

from roost_worker.grammar.keywords import REFERENCE, Schema
from roost_worker.grammar.normal_schema import NormalSchema

_ALL = frozenset({"null", "boolean", "number", "string", "array", "object"})
_DEPTH = 4
"""Keys are compared down to this level; recursive schemas have no last one."""
_MOST_COMPARISONS = 20_000
"""Two schemas are compared key by key and level by level, so that a small schema can ask for very many."""


class Overlap:
    """Compares the parts of one schema. What it cannot decide counts as an overlap."""

    def __init__(self, normal: NormalSchema) -> None:
        self._normal, self._left = normal, _MOST_COMPARISONS
        self._types: dict[str, frozenset[str]] = {}
        for name, definition in normal.definitions.items():  # parts come first
            self._types[name] = self.types(definition)

    def types(self, schema: Schema) -> frozenset[str]:
        """Return the types that values may have; integers are numbers."""
        if isinstance(schema, bool):
            return _ALL if schema else frozenset()
        types = _ALL
        for keyword, value in schema.items():
            match keyword:
                case "type":
                    types &= {_coarse(name) for name in (value if isinstance(value, list) else [value])}
                case "const":
                    types &= {_type_of(value)}
                case "enum":
                    types &= {_type_of(item) for item in value}
                case "$ref":
                    types &= self._types[value.removeprefix(REFERENCE)]
                case "allOf":
                    types = types.intersection(*map(self.types, value))
                case "anyOf" | "oneOf":
                    types &= frozenset().union(*map(self.types, value))
        return types

    def disjoint(self, left: Schema, right: Schema, depth: int = _DEPTH) -> bool:
        """Return whether no value can satisfy both."""
        self._left -= 1
        if self._left < 0:
            return False
        left, right = self._normal.resolve(left), self._normal.resolve(right)
        common = self.types(left) & self.types(right)
        if not common or not isinstance(left, dict) or not isinstance(right, dict):
            return not common
        constants = _constants(left), _constants(right)
        if constants[0] is not None and constants[1] is not None:
            return constants[0].isdisjoint(constants[1])
        if common != {"object"} or not depth:
            return False
        keys = (*left.get("required", ()), *right.get("required", ()))
        return any(self.disjoint(_at_key(left, key), _at_key(right, key), depth - 1) for key in keys)

    def all_disjoint(self, schemas: list[Schema]) -> bool:
        """Return whether no value can satisfy two of the schemas."""
        return all(self.disjoint(left, right) for index, left in enumerate(schemas) for right in schemas[index + 1 :])


def _at_key(schema: dict[str, Any], key: str) -> Schema:
    """Return a schema that the value at `key` satisfies."""
    known: Schema | None = schema.get("properties", {}).get(key)
    if known is not None:
        return known
    return True if "patternProperties" in schema else schema.get("additionalProperties", True)


def _constants(schema: dict[str, Any]) -> frozenset[Hashable] | None:
    if "const" in schema:
        return frozenset({_comparable(schema["const"])})
    values: Iterable[Any] | None = schema.get("enum")
    return None if values is None else frozenset(map(_comparable, values))


def _comparable(value: Any) -> Hashable:
    """Return something that is equal for equal JSON values: 1 and 1.0 are, 1 and true are not."""
    match value:
        case list():
            return "array", tuple(map(_comparable, value))
        case dict():
            return "object", frozenset((key, _comparable(item)) for key, item in value.items())
        case bool() | None | str():
            return _type_of(value), value
    return "number", float(value)


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
    return "number"


def _coarse(name: str) -> str:
    return "number" if name == "integer" else name
