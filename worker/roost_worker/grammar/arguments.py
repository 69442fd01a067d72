"""Checks the arguments of a call after it is written, for what its grammar cannot enforce. Pure.

Patterns are clients' input, and Python's `re` takes exponential time on some: `violation` belongs into a compile
process (`CompilePool.violation`).
"""

import json

from jsonschema import Draft202012Validator

from roost_worker.grammar.keywords import Schema, map_subschemas
from roost_worker.grammar.normal_schema import normalize
from roost_worker.grammar.patterns import is_readable, with_ecma_classes
from roost_worker.grammar.schema_text import load_schema


def violation(parameters_json: str, arguments_json: str) -> str | None:
    """Return why a call's arguments break the tool's own schema; None if they keep it.

    Both must be valid. Patterns that Python cannot read are not checked: the grammar enforces those that it can.
    """
    normal = normalize(load_schema(parameters_json or "{}", "parameters_json"), "parameters_json")
    definitions = {name: _readable(schema) for name, schema in normal.definitions.items()}
    # All references name definitions, so that the validator fetches nothing.
    validator = Draft202012Validator({"allOf": [_readable(normal.schema)], "$defs": definitions})
    error = next(validator.iter_errors(json.loads(arguments_json)), None)
    return error and f"{error.json_path}: {error.message[:200]}"


def _readable(schema: Schema) -> Schema:
    """Write patterns as Python reads them; leave out those that it cannot read."""
    if isinstance(schema, bool):
        return schema
    schema = map_subschemas(schema, lambda item, _: _readable(item))
    if "pattern" in schema:
        schema["pattern"] = with_ecma_classes(schema["pattern"])
        if not is_readable(schema["pattern"]):
            del schema["pattern"]
    if "patternProperties" in schema:
        patterns = [(with_ecma_classes(pattern), item) for pattern, item in schema["patternProperties"].items()]
        readable: dict[str, Schema] = {}
        for pattern, item in patterns:
            if is_readable(pattern):
                readable[pattern] = {"allOf": [readable[pattern], item]} if pattern in readable else item
            else:
                schema.pop("additionalProperties", None)
        schema["patternProperties"] = readable
    return schema
