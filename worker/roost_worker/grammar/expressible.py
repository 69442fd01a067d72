"""Which values of keywords llguidance 1.9.1 expresses. Pure."""

import re
from collections.abc import Collection
from decimal import Decimal
from itertools import pairwise
from typing import Any

from roost_worker.grammar.patterns import is_expressible

_LARGEST = 10**17
"""Larger numbers do not fit what the library computes with."""
_LARGEST_FACTOR = 2**32
_MOST_PLACES = 10


def has_expressible_value(keyword: str, value: Any, schema: dict[str, Any]) -> bool:
    """Return whether the library expresses a keyword of `schema` with this value."""
    match keyword:
        case "pattern":
            return is_expressible(value)
        case "const" | "enum":
            return not _has_large_number(value)
        case "minimum" | "exclusiveMinimum":
            return bool(-_LARGEST <= value <= _LARGEST)
        case "maximum" | "exclusiveMaximum":
            return bool(value >= -_LARGEST and (value <= _LARGEST or schema.get("type") == "integer"))
        case "multipleOf":
            return _is_expressible_factor(value)
    return True


def patterns_are_disjoint(patterns: Collection[str]) -> bool:
    """Return whether no key can match two of the patterns, as far as the letters that they begin with show it."""
    starts = [_first_letters(pattern) for pattern in patterns]
    # Sorted, a text comes right before those that begin with it.
    return all(not right.startswith(left) for left, right in pairwise(sorted(starts)))


def expressible_counts(schema: dict[str, Any], merged: bool) -> tuple[list[str], list[str]]:
    """Return which of `minProperties` and `maxProperties` other keywords imply, and which others are expressed.

    The library counts keys where all named ones are required, and else only up to one more than are required.
    """
    names, required = schema.get("properties", {}).keys(), set(schema.get("required", ()))
    is_closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    limits = {keyword: schema[keyword] for keyword in ("minProperties", "maxProperties") if keyword in schema}
    implied: list[str] = []
    if limits.get("minProperties", len(required) + 1) <= len(required):
        implied.append("minProperties")
    if is_closed and limits.get("maxProperties", -1) >= len(names | required):
        implied.append("maxProperties")
    if merged:
        return implied, []
    if names <= required:
        return implied, list(limits)
    spare = {keyword: count - len(required) for keyword, count in limits.items() if keyword not in implied}
    return implied, list(spare) if is_closed and all(count == 1 for count in spare.values()) else []


def _first_letters(pattern: str) -> str:
    """Return letters that every match begins with."""
    letters = re.match(r"\^([A-Za-z0-9_-]*)", pattern)
    if letters is None or "|" in pattern:
        return ""
    is_repeated = pattern[letters.end() :].startswith(("?", "*", "{"))
    return letters[1][:-1] if is_repeated else letters[1]


def _is_expressible_factor(value: float) -> bool:
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)  # the number is finite
    coefficient = int("".join(map(str, digits))) * 10 ** max(0, exponent)
    return coefficient < _LARGEST_FACTOR and exponent >= -_MOST_PLACES


def _has_large_number(value: Any) -> bool:
    match value:
        case dict():
            return any(map(_has_large_number, value.values()))
        case list():
            return any(map(_has_large_number, value))
    return isinstance(value, int | float) and abs(value) > _LARGEST
