"""Writes a client's JSON schema in one dialect, without a change to what it allows. Pure.

The dialect is draft 2020-12 with these rules, which spare the rest of the package many cases:

- Only keywords that constrain something are there, with values of the right kind; `description` stays.
- Counts are integers of 32 bits: no output is longer.
- Each reference is `#/$defs/NAME`, and no schema is its own part without an end.
- Spellings of older drafts and OpenAPI's `nullable` are replaced by what they mean.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any
from urllib.parse import unquote

from roost_worker.grammar.errors import GrammarError
from roost_worker.grammar.keywords import (
    COMBINATORS,
    COUNTS,
    FORMATS,
    PLAIN,
    REFERENCE,
    SUBSCHEMA_LISTS,
    SUBSCHEMA_MAPS,
    SUBSCHEMAS,
    Schema,
    escape,
    map_subschemas,
)
from roost_worker.grammar.recursion import applied

MAX_SCHEMAS = 25_000
"""More than a schema of `MAX_SCHEMA_BYTES` can hold, unless its references overlap."""

_OLD_DRAFTS = ("draft-03", "draft-04", "draft-06", "draft-07")
"""Drafts in which a reference hides the keywords beside it."""
_LARGEST_COUNT = 2**32 - 1
_KNOWN = SUBSCHEMAS | SUBSCHEMA_LISTS | SUBSCHEMA_MAPS | PLAIN.keys()
_UNEVALUATED = {"unevaluatedProperties": "additionalProperties", "unevaluatedItems": "items"}
_COMPANIONS = {"if": ("then", "else"), "contains": ("minContains", "maxContains")}


@dataclass(frozen=True, slots=True)
class NormalSchema:
    """A schema in this module's dialect."""

    schema: Schema
    definitions: Mapping[str, Schema]
    """What references name; a definition that applies to the same value as another one comes before it."""
    origins: Mapping[str, str]
    """Where each definition stands in the client's schema, as a JSON pointer."""

    def resolve(self, schema: Schema) -> Schema:
        """Return the definition that a schema of a single reference names; any other schema unchanged."""
        return self.locate(schema, "")[0]

    def locate(self, schema: Schema, pointer: str) -> tuple[Schema, str]:
        """As `resolve`, and with the JSON pointer of what is returned; that of `schema` is `pointer`."""
        while isinstance(schema, dict) and (schema.keys() - {"description"}) == {"$ref"}:
            name = schema["$ref"].removeprefix(REFERENCE)
            schema, pointer = self.definitions[name], self.origins[name]
        return schema, pointer


def normalize(document: Any, field: str) -> NormalSchema:
    """Return the schema `document`, which came in `field`, in this module's dialect.

    Raise GrammarError naming field, place and keyword if it is not valid, or refers to another document.
    """
    reader = _Reader(document, field)
    schema = reader.schema(document, "")
    definitions: dict[str, Schema] = {}
    while len(definitions) < len(reader.names):
        pointer, name = list(reader.names.items())[len(definitions)]
        definitions[name] = reader.schema(_find(document, pointer), pointer)
    origins = {name: pointer for pointer, name in reader.names.items()}
    parts = {name: set(applied(definition)) for name, definition in definitions.items()}
    try:
        order = tuple(TopologicalSorter(parts).static_order())
    except CycleError as error:
        name = error.args[1][0]
        raise GrammarError(f"{field}: {origins[name] or '/'} refers to itself without an end") from error
    return NormalSchema(schema, {name: definitions[name] for name in order}, origins)


class _Reader:
    def __init__(self, document: Any, field: str) -> None:
        self.names: dict[str, str] = {}  # by the definition's pointer
        self._document, self._field, self._left = document, field, MAX_SCHEMAS
        self._anchors = dict(_anchors(document, ""))
        root = document if isinstance(document, dict) else {}
        self._own_uris = ("", *(root[key].rstrip("#") for key in ("$id", "id") if isinstance(root.get(key), str)))
        self._hides_siblings = any(draft in str(root.get("$schema")) for draft in _OLD_DRAFTS)

    def schema(self, value: Any, pointer: str) -> Schema:
        if isinstance(value, bool):
            return value
        self._require(isinstance(value, dict), pointer, "must be a schema: an object, true or false")
        self._left -= 1
        self._require(self._left > 0, "", f"holds more than {MAX_SCHEMAS} schemas; use a smaller one")
        if self._hides_siblings and value.get("$ref") is not None:
            value = {"$ref": value["$ref"]}
        value = _in_new_spelling(value)
        for keyword, item in value.items():
            self._check(keyword, item, f"{pointer}/{keyword}")
        known = {keyword: item for keyword, item in value.items() if keyword in _KNOWN}
        schema = map_subschemas(known, lambda item, place: self.schema(item, pointer + place))
        if "$ref" in schema:
            schema["$ref"] = self._reference(schema["$ref"], f"{pointer}/$ref")
        for keyword in COUNTS & schema.keys():
            schema[keyword] = min(int(schema[keyword]), _LARGEST_COUNT)
        for keyword in [keyword for keyword, item in schema.items() if _says_nothing(keyword, item, schema)]:
            del schema[keyword]
        schema = _without_unevaluated(schema)
        return _or_null(schema) if value.get("nullable") is True else schema

    def _check(self, keyword: str, value: Any, pointer: str) -> None:
        if keyword in SUBSCHEMA_LISTS:
            self._require(isinstance(value, list) and value != [], pointer, "must be a list of schemas")
        elif keyword in SUBSCHEMA_MAPS:
            self._require(isinstance(value, dict), pointer, "must be an object of schemas")
        elif keyword in PLAIN:
            is_valid, wanted = PLAIN[keyword]
            self._require(is_valid(value), pointer, f"must be {wanted}, not {str(value)[:60]!r}")

    def _reference(self, value: str, pointer: str) -> str:
        uri, _, fragment = value.partition("#")
        self._require(uri in self._own_uris, pointer, f"{value[:200]!r} is in another document; put it into $defs")
        target = unquote(fragment)
        if target and not target.startswith("/"):
            target = self._anchors.get(target, "/")
        self._require(_find(self._document, target) is not None, pointer, f"{value[:200]!r} points to nothing")
        return REFERENCE + self.names.setdefault(target, f"d{len(self.names)}")

    def _require(self, condition: bool, pointer: str, wanted: str) -> None:
        if not condition:
            raise GrammarError(f"{self._field}: {pointer[:200] or '/'} {wanted}")


def _in_new_spelling(schema: dict[str, Any]) -> dict[str, Any]:
    """Replace what draft 2020-12 spells in another way; leave out keywords that are null."""
    schema = {keyword: value for keyword, value in schema.items() if value is not None or keyword == "const"}
    for limit, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        is_exclusive = schema.get(exclusive)
        if isinstance(is_exclusive, bool):  # until draft 4
            del schema[exclusive]
            if is_exclusive and limit in schema:
                schema[exclusive] = schema.pop(limit)
    schema = _with_required(_with_static_references(schema))
    if isinstance(schema.get("items"), list):  # until 2019-09
        schema["prefixItems"] = schema.pop("items")
        if "additionalItems" in schema:
            schema["items"] = schema.pop("additionalItems")
    if isinstance(schema.get("dependencies"), dict):  # until draft 7
        dependent: dict[str, dict[str, Any]] = {"dependentRequired": {}, "dependentSchemas": {}}
        for name, item in schema.pop("dependencies").items():
            dependent["dependentRequired" if isinstance(item, list) else "dependentSchemas"][name] = item
        for keyword, items in dependent.items():
            known = schema.get(keyword, {})
            if items and isinstance(known, dict):  # others are refused
                schema[keyword] = {**known, **items}
    for keyword in ("allOf", "prefixItems"):
        if schema.get(keyword) == []:
            del schema[keyword]
    return schema


def _with_static_references(schema: dict[str, Any]) -> dict[str, Any]:
    """Write dynamic references as static ones, which they are as long as there is one document."""
    for keyword in ("$dynamicRef", "$recursiveRef"):
        if keyword in schema and "$ref" not in schema:
            schema["$ref"] = schema.pop(keyword)
        elif keyword in schema:
            parts = schema.get("allOf", [])
            if isinstance(parts, list):  # others are refused
                schema["allOf"] = [*parts, {"$ref": schema.pop(keyword)}]
    return schema


def _with_required(schema: dict[str, Any]) -> dict[str, Any]:
    """Write `required` at a property itself, as until draft 3, in the object's list."""
    if isinstance(schema.get("required"), bool):
        del schema["required"]
    properties, listed = schema.get("properties"), schema.get("required", [])
    if isinstance(properties, dict) and isinstance(listed, list):  # others are refused
        required = [
            name for name, item in properties.items() if isinstance(item, dict) and item.get("required") is True
        ]
        schema |= {"required": [*listed, *required]} if required else {}
    return schema


def _says_nothing(keyword: str, value: Any, schema: Mapping[str, Any]) -> bool:
    match keyword, value:
        case "uniqueItems" | "not", False:
            return True
        case "unevaluatedItems" | "unevaluatedProperties", True:
            return True
        case "format", _:
            return value not in FORMATS
        case "propertyNames", _:
            return value is True or value in ({}, {"type": "string"})
        case "if", _:
            return not schema.keys() & {"then", "else"}
    return any(keyword in companions and owner not in schema for owner, companions in _COMPANIONS.items())


def _without_unevaluated(schema: dict[str, Any]) -> dict[str, Any]:
    """Where no schema is combined with another, what is unevaluated is what is additional."""
    if not schema.keys() & (COMBINATORS | {"contains", "dependentSchemas"}):
        for unevaluated, additional in _UNEVALUATED.items():
            if unevaluated in schema:
                schema.setdefault(additional, schema.pop(unevaluated))
    return schema


def _or_null(schema: dict[str, Any]) -> Schema:
    """Return the schema of what `schema` allows, or null."""
    if "type" not in schema or schema.keys() & COMBINATORS:
        return {"anyOf": [schema, {"type": "null"}]}
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    nullable = {**schema, "type": [*types, "null"]}
    if "const" in nullable:
        nullable["enum"] = [nullable.pop("const")]
    if "enum" in nullable:
        nullable["enum"] = [*nullable["enum"], None]
    return nullable


def _find(document: Any, pointer: str) -> Any:
    """Return what a JSON pointer names; None if there is nothing."""
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict):
            document = document.get(part)
        elif isinstance(document, list) and part.isdecimal() and len(part) < 9 and int(part) < len(document):
            document = document[int(part)]
        else:
            return None
    return document


def _anchors(value: Any, pointer: str) -> Iterator[tuple[str, str]]:
    """Yield the anchors in a schema, each with its pointer."""
    for keyword in ("$anchor", "$dynamicAnchor") if isinstance(value, dict) else ():
        if isinstance(value.get(keyword), str):
            yield value[keyword], pointer
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _anchors(item, f"{pointer}/{escape(str(key))}")
