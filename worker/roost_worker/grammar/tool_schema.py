"""What a tool's grammar is built from: its own schema, or the closest one above it that a grammar expresses. Pure."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from roost_worker.grammar.errors import GrammarError
from roost_worker.grammar.keywords import Schema
from roost_worker.grammar.normal_schema import NormalSchema, normalize
from roost_worker.grammar.overlap import Overlap
from roost_worker.grammar.schema_text import load_schema
from roost_worker.grammar.widening import widen

# Models were trained on tool calls with the blanks of Python's json.dumps.
_AS_TRAINED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class ToolSchema(NamedTuple):
    """What the grammar of a tool's arguments is built from."""

    text: str
    """JSON text of a schema of objects that allows all that the tool's own allows; with llguidance's options."""
    constrained: bool
    """Whether a grammar of `text` enforces the tool's own. If not, arguments must be checked (`violation`)."""
    keyword: str
    """The first keyword that it does not enforce, as a JSON pointer into the tool's own; empty if `constrained`."""


def tool_schema(name: str, parameters_json: str) -> ToolSchema:
    """Return what the grammar of a tool's arguments is built from. No text and `true` stand for any object.

    Raise GrammarError naming the tool, the field and the keyword when no arguments could satisfy `parameters_json`.
    """
    field = f"tool {name!r}: parameters_json"
    normal = normalize(load_schema(parameters_json or "{}", field), field)
    root, pointer = normal.locate(normal.schema, "")
    wide = widen(replace(normal, schema=_of_objects(normal, root, f"{field}: {pointer}")), pointer)
    text = json.dumps(with_options(wide.schema, _AS_TRAINED))
    return ToolSchema(text, not wide.dropped, next(iter(wide.dropped), ""))


def with_options(schema: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema with these options of llguidance, too."""
    return {**schema, "x-guidance": {**schema.get("x-guidance", {}), **options}}


def _of_objects(normal: NormalSchema, schema: Schema, place: str) -> dict[str, Any]:
    """Return the schema of those of `schema`'s values that are objects."""
    overlap = Overlap(normal)
    if isinstance(schema, bool):
        if not schema:
            raise GrammarError(f"{place.rstrip()} the schema `false` allows no arguments")
        return {"type": "object"}
    for keyword, value in schema.items():
        if "object" not in overlap.types({keyword: value}):
            raise GrammarError(f"{place}/{keyword} allows no object, but a call's arguments are one")
    if "enum" in schema:
        schema = {**schema, "enum": [value for value in schema["enum"] if isinstance(value, dict)]}
    return {"type": "object", **schema} | {"type": "object"}
