"""Replaces what the grammar library cannot express by the closest schema that allows more. Pure.

What llguidance 1.9.1 expresses was found by trying. It refuses a whole schema for a single keyword, and its lenient
mode, which drops keywords, counts `minProperties` wrongly; so keywords are dropped here, one by one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roost_worker.grammar.expressible import expressible_counts, has_expressible_value, patterns_are_disjoint
from roost_worker.grammar.keywords import COMBINATORS, REFERENCE, Schema, map_subschemas
from roost_worker.grammar.normal_schema import NormalSchema
from roost_worker.grammar.overlap import Overlap
from roost_worker.grammar.patterns import is_expressible, with_ecma_classes
from roost_worker.grammar.recursion import applied, recursive

_DROPPED = frozenset(
    {"contains", "dependentRequired", "dependentSchemas", "if", "not", "propertyNames"}
    | {"unevaluatedItems", "unevaluatedProperties", "uniqueItems"}
)
_COMPANIONS = frozenset({"else", "maxContains", "minContains", "then"})
"""Dropped with what they belong to."""
_COUNTS = ("minProperties", "maxProperties")
_OF_OTHER_KEYS = ("patternProperties", "additionalProperties")
_MOST_OPTIONS = 64
"""The options of a `oneOf` are compared in pairs, so only so many are."""
_NO_UNICODE_ESCAPES = {"json_allowed_escapes": 'nrbtf\\"'}


@dataclass(frozen=True, slots=True)
class WideSchema:
    """A schema that a grammar can be built from."""

    schema: Mapping[str, Any]
    """Allows all that the original allows; with llguidance's options, as `x-guidance`."""
    dropped: tuple[str, ...]
    """Keywords that it does not enforce, as JSON pointers into the client's schema."""


def widen(normal: NormalSchema, pointer: str = "") -> WideSchema:
    """Return the closest schema that a grammar can be built from; `pointer` is where its root stands."""
    seals = not any(map(_names_ambiguously, (normal.schema, *normal.definitions.values())))
    widener = _Widener(Overlap(normal), recursive(normal.definitions), seals)
    root = widener.schema(normal.schema, pointer)
    definitions: dict[str, Schema] = {}
    while pending := [name for name in widener.references if name not in definitions]:
        for name in pending:
            definitions[name] = widener.definition(name, normal)
    schema: dict[str, Any] = {"allOf": [root]} if isinstance(root, bool) else root
    if definitions:
        schema = {**schema, "$defs": definitions}
    if not seals:
        schema = {**schema, "x-guidance": _NO_UNICODE_ESCAPES}
    return WideSchema(schema, tuple(widener.dropped))


class _Widener:
    def __init__(self, overlap: Overlap, recursive_names: frozenset[str], seals: bool) -> None:
        self.dropped: list[str] = []
        self.references: dict[str, None] = {}
        self._overlap, self._recursive, self._seals = overlap, recursive_names, seals
        self._is_in_loop = False

    def definition(self, name: str, normal: NormalSchema) -> Schema:
        """Widen a definition."""
        self._is_in_loop = name in self._recursive
        return self.schema(normal.definitions[name], normal.origins[name])

    def schema(self, schema: Schema, pointer: str, merged: bool = False) -> Schema:
        """Widen a schema; `merged` says that others apply to the same value."""
        if isinstance(schema, bool):
            return schema
        schema = self._with_one_part(schema, pointer)
        merged = merged or _parts({keyword: value for keyword, value in schema.items() if keyword != "type"}) > 1
        schema = schema if merged else _names_by_pattern(schema)
        schema = self._without_keywords(schema, pointer)
        schema = self._with_disjoint_patterns(schema, pointer, merged)
        schema = self._with_counts(schema, pointer, merged)
        if "oneOf" in schema and not self._is_any_of(schema["oneOf"]):
            self.dropped.append(f"{pointer}/oneOf")
        if "$ref" in schema:
            self.references[schema["$ref"].removeprefix(REFERENCE)] = None

        def change(item: Schema, place: str) -> Schema:
            return self.schema(item, pointer + place, merged and place.startswith(("/allOf", "/anyOf", "/oneOf")))

        schema = _with_ecma_patterns(_with_any_of(map_subschemas(schema, change)))
        return _in_order(_sealed(schema) if self._seals else schema)

    def _with_one_part(self, schema: dict[str, Any], pointer: str) -> dict[str, Any]:
        """Leave out what stands beside a definition that contains the schema: llguidance cannot merge the two."""
        loops = self._is_in_loop and _parts(schema) > 1
        for keyword in ("$ref", "anyOf", "oneOf", "allOf") if loops else ():
            kept: dict[str, Any] = {keyword: schema[keyword]} if keyword in schema else {}
            if keyword == "allOf":
                kept = next(({keyword: [item]} for item in kept.get(keyword, ()) if self._loops(item)), {})
            if kept and self._loops(kept):
                others = {name: value for name, value in schema.items() if kept.get(name) != value}
                others.pop("description", None)
                if not self._is_implied(others, kept):
                    self.dropped.append(f"{pointer}/{next(iter(others))}")
                return kept
        return schema

    def _is_implied(self, others: dict[str, Any], kept: Schema) -> bool:
        """Return whether `others` says nothing but a type that values of `kept` have anyway."""
        if others.keys() != {"type"} or "integer" in others["type"]:
            return False
        return self._overlap.types(kept) <= self._overlap.types(others)

    def _loops(self, schema: Schema) -> bool:
        return not self._recursive.isdisjoint(applied(schema))

    def _without_keywords(self, schema: dict[str, Any], pointer: str) -> dict[str, Any]:
        kept = {}
        for keyword, value in schema.items():
            if keyword in _DROPPED or not has_expressible_value(keyword, value, schema):
                self.dropped.append(f"{pointer}/{keyword}")
            elif keyword not in _COMPANIONS:
                kept[keyword] = value
        return kept

    def _with_disjoint_patterns(self, schema: dict[str, Any], pointer: str, merged: bool) -> dict[str, Any]:
        """Join patterns of keys that a key may match at once: its value then satisfies the schema of one of them."""
        patterns = schema.get("patternProperties", {})
        expressible = not merged and all(map(is_expressible, patterns))
        if not patterns or (expressible and patterns_are_disjoint(patterns)):
            return schema
        self.dropped.append(f"{pointer}/patternProperties")
        if expressible:
            joined = "|".join(f"(?:{pattern})" for pattern in patterns)
            return {**schema, "patternProperties": {joined: {"anyOf": list(patterns.values())}}}
        additional = {"anyOf": [schema.get("additionalProperties", True), *patterns.values()]}
        return {**schema, "patternProperties": {}, "additionalProperties": additional}

    def _with_counts(self, schema: dict[str, Any], pointer: str, merged: bool) -> dict[str, Any]:
        implied, expressible = expressible_counts(schema, merged)
        lost = [keyword for keyword in _COUNTS if keyword in schema and keyword not in (*implied, *expressible)]
        self.dropped += [f"{pointer}/{keyword}" for keyword in lost]
        return {keyword: value for keyword, value in schema.items() if keyword not in (*implied, *lost)}

    def _is_any_of(self, options: list[Schema]) -> bool:
        """Return whether no value can satisfy two of the options."""
        return len(options) <= _MOST_OPTIONS and self._overlap.all_disjoint(options)


def _parts(schema: dict[str, Any]) -> int:
    """Return how many schemas apply to the same value and are kept: those combined, and the other keywords as one."""
    kept = schema.keys() - _DROPPED - _COMPANIONS - {"description"}
    combined = kept & COMBINATORS
    return len(combined) + bool(kept - combined) + len(schema.get("allOf", ())[1:])


def _names_by_pattern(schema: dict[str, Any]) -> dict[str, Any]:
    """Express what `propertyNames` says of the keys of a map by the patterns of its properties."""
    names = schema.get("propertyNames")
    if not isinstance(names, dict) or schema.keys() & {"properties", "patternProperties"}:
        return schema
    rest = {keyword: value for keyword, value in schema.items() if keyword != "propertyNames"}
    additional = rest.get("additionalProperties", True)
    says = names.keys() - {"type", "description"}
    if says == {"pattern"} and has_expressible_value("pattern", names["pattern"], names):
        return {**rest, "patternProperties": {names["pattern"]: additional}, "additionalProperties": False}
    if says == {"enum"}:
        keys = [name for name in names["enum"] if isinstance(name, str)]
        return {**rest, "properties": dict.fromkeys(keys, additional), "additionalProperties": False}
    return schema


def _with_any_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Write `oneOf` as `anyOf`, in the same place, since the order of keywords is that of keys in the output."""
    if "oneOf" not in schema:
        return schema
    if "anyOf" not in schema:
        return {"anyOf" if keyword == "oneOf" else keyword: value for keyword, value in schema.items()}
    rest = {keyword: value for keyword, value in schema.items() if keyword != "oneOf"}
    return {**rest, "allOf": [*rest.get("allOf", ()), {"anyOf": schema["oneOf"]}]}


def _with_ecma_patterns(schema: dict[str, Any]) -> dict[str, Any]:
    if "pattern" in schema:
        schema["pattern"] = with_ecma_classes(schema["pattern"])
    if patterns := schema.get("patternProperties"):  # disjoint, so that no two become equal
        schema["patternProperties"] = {with_ecma_classes(pattern): item for pattern, item in patterns.items()}
    return schema


def _sealed(schema: dict[str, Any]) -> dict[str, Any]:
    """Let keys that are not named match a pattern instead of being additional.

    llguidance lets an additional key spell a named one with escapes, but not a key that matches a pattern.
    """
    if not schema.keys() & {"properties", "required"} or not _is_open(schema):
        return schema
    return {**schema, "patternProperties": {"": True}, "additionalProperties": False}


def _in_order(schema: dict[str, Any]) -> dict[str, Any]:
    """Put `patternProperties` and `additionalProperties` after `properties`.

    llguidance applies keywords in their order, and forgets the patterns where a constant comes in between.
    """
    pair: dict[str, Any] = {keyword: schema[keyword] for keyword in _OF_OTHER_KEYS if keyword in schema}
    ordered = {} if "properties" in schema else dict(pair)
    for keyword, value in schema.items():
        if keyword not in pair:
            ordered[keyword] = value
        if keyword == "properties":
            ordered |= pair
    return ordered


def _is_open(schema: dict[str, Any]) -> bool:
    return schema.get("additionalProperties", True) in (True, {})


def _names_ambiguously(schema: Schema) -> bool:
    """Return whether an object in the schema has named keys and others with values of their own, so that `_sealed`
    would not do."""
    if isinstance(schema, bool):
        return False
    if schema.keys() & {"patternProperties", "propertyNames"}:
        return True
    is_closed = schema.get("additionalProperties") is False
    if schema.keys() & {"properties", "required"} and not (is_closed or _is_open(schema)):
        return True
    ambiguous = False

    def note(item: Schema, place: str) -> Schema:
        nonlocal ambiguous
        ambiguous = ambiguous or _names_ambiguously(item)
        return item

    map_subschemas(schema, note)
    return ambiguous
