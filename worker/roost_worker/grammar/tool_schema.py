"""What a tool's grammar is built from: its own schema, or the closest one above it that a grammar expresses. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY

from roost_worker.grammar.errors import GrammarError
from roost_worker.grammar.schema_text import load_schema

_COMBINATORS = frozenset({"$ref", "anyOf", "oneOf", "allOf", "const", "enum"})


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """The JSON schema that the grammar of a tool's arguments is built from."""

    schema: Mapping[str, Any]
    """Describes objects only."""
    constrained: bool
    """Whether the grammar enforces all of the tool's own schema. If not, arguments must be checked (`violation`)."""
    keyword: str
    """The first keyword that no grammar expresses, as a JSON pointer into the tool's schema; empty if `constrained`."""


def tool_schema(name: str, parameters_json: str) -> ToolSchema:
    """Return what the grammar of a tool's arguments is built from.

    Raise GrammarError naming the tool, the field and the keyword when no arguments could satisfy `parameters_json`.
    """
    field = f"tool {name!r}: parameters_json"
    document = load_schema(parameters_json or "{}", field)
    if document is False:
        raise GrammarError(f"{field}: the schema `false` allows no arguments")
    schema = {} if document is True else dict(document)
    if "type" not in schema and not _COMBINATORS & set(schema):
        schema["type"] = "object"
    return ToolSchema(schema, constrained=True, keyword="")


def violation(parameters_json: str, arguments_json: str) -> str | None:
    """Return why a call's arguments break the tool's own schema; None if they keep it."""
    schema = json.loads(parameters_json or "{}")
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=REGISTRY)
    errors = validator.iter_errors(json.loads(arguments_json))
    return next((f"{error.json_path}: {error.message[:200]}" for error in errors), None)
