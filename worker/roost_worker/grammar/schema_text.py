"""Reads JSON schemas that clients sent as text, within limits. Pure."""

import json
from typing import Any

from roost_worker.grammar.errors import GrammarError

MAX_SCHEMA_BYTES = 64 * 1024
MAX_DEPTH = 64


def load_schema(text: str, field: str) -> Any:
    """Return the JSON document in `text`, which came in `field`.

    Raise GrammarError naming the field when the text is not strict JSON, longer than `MAX_SCHEMA_BYTES`, deeper than
    `MAX_DEPTH`, not a JSON schema (an object, true or false), or holds an integer that does not fit 64 bits.
    """
    if len(text.encode(errors="replace")) > MAX_SCHEMA_BYTES:
        raise GrammarError(f"{field}: longer than {MAX_SCHEMA_BYTES} bytes; use a smaller schema")
    try:
        document = json.loads(text, parse_int=_integer, parse_constant=_refuse)
        json.dumps(document, ensure_ascii=False).encode()  # refuses half of a surrogate pair
    except OverflowError as error:
        raise GrammarError(f"{field}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"{field}: not JSON: {error}") from error
    if not isinstance(document, dict | bool):
        raise GrammarError(f"{field}: must be a JSON schema, an object; it is {type(document).__name__}")
    if _depth(document) > MAX_DEPTH:
        raise GrammarError(f"{field}: nested deeper than {MAX_DEPTH} levels; use $defs and $ref")
    return document


def _integer(digits: str) -> int:
    """Raise OverflowError for an integer that llguidance would round to a float."""
    value = int(digits)
    if not -(2**63) <= value < 2**64:
        raise OverflowError(f"the integer {digits[:40]} does not fit 64 bits")
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [item for parent in level for item in _children(parent)]
    return depth


def _children(value: Any) -> list[Any]:
    match value:
        case dict():
            return list(value.values())
        case list():
            return value
    return []
