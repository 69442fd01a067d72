"""Turns pydantic's errors into sentences that name the field and the fix. Pure."""

import difflib
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from roost_operator.api.fields import PATTERNS

Location = tuple[str | int, ...]

_EXPECTED = {
    "int_type": "write a whole number",
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "string_type": "write a text, in quotes if it looks like a number",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "dict_type": "write a mapping (key: value)",
    "model_type": "write a mapping (key: value)",
    "model_attributes_type": "write a mapping (key: value)",
    "tuple_type": "write a list (- item)",
    "list_type": "write a list (- item)",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault of a document: where it is, and what to do about it."""

    location: Location
    message: str

    def __str__(self) -> str:
        return f"{path(self.location)}: {self.message}"


def path(location: Location) -> str:
    """`spec.roles[1].name` of ("spec", "roles", 1, "name")."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "document"


def problems(error: ValidationError, root: type[BaseModel]) -> list[Problem]:
    """The faults of a document of type `root`, in the order of its fields."""
    faults = [details for details in error.errors(include_url=False) if not _follows_from_an_item(details)]
    meant = {_meant(tuple(details["loc"]), root) for details in faults if details["type"] == "extra_forbidden"}
    return [
        Problem(tuple(details["loc"]), _message(details, root))
        for details in faults
        if not (details["type"] == "missing" and tuple(details["loc"]) in meant)  # it is there, but misspelt
    ]


def _meant(location: Location, root: type[BaseModel]) -> Location:
    """Where a misspelt key belongs."""
    parent = location[:-1]
    return (*parent, nearest(str(location[-1]), valid_keys(root, parent)) or "")


def nearest(key: str, valid: Sequence[str]) -> str | None:
    """The valid key most like `key`, ignoring case; None when none is similar."""
    lowered = {name.lower(): name for name in valid}
    matches = difflib.get_close_matches(key.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[matches[0]] if matches else None


def valid_keys(root: type[BaseModel], location: Location) -> list[str]:
    """Keys of the object at `location` of a document of type `root`; empty when it has no typed object there."""
    annotation: Any = root
    for part in location:
        annotation = _inner(annotation, part)
    model = _model(annotation)
    return [] if model is None else [_alias(name, model) for name in model.model_fields]


def _message(details: ErrorDetails, root: type[BaseModel]) -> str:
    kind, context, value = details["type"], details.get("ctx", {}), details.get("input")
    location = tuple(details["loc"])
    if kind == "extra_forbidden":
        return _unknown(str(location[-1]), valid_keys(root, location[:-1]))
    if kind == "missing":
        return "is missing; add it"
    if kind == "value_error":
        return str(context.get("error", details["msg"]))
    if kind in ("enum", "literal_error"):
        return f"{value!r} is not allowed; use {context['expected']}"
    if kind == "string_pattern_mismatch":
        return f"{value!r} is not allowed; {PATTERNS.get(context['pattern'], 'it must match ' + context['pattern'])}"
    return _bound(kind, context, value) or f"{value!r} is not allowed; {_EXPECTED.get(kind, details['msg'])}"


def _follows_from_an_item(details: ErrorDetails) -> bool:
    """Whether a list is only too short because pydantic does not count its faulty items."""
    return details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]


def _bound(kind: str, context: dict[str, Any], value: Any) -> str:
    match kind:
        case "greater_than_equal":
            return f"{value!r} is too small; use at least {context['ge']}"
        case "less_than_equal":
            return f"{value!r} is too large; use at most {context['le']}"
        case "too_short":
            return f"has too few items; give at least {context['min_length']}"
        case "too_long":
            return f"has too many items; give at most {context['max_length']}"
        case "string_too_short":
            return f"is too short; use at least {context['min_length']} characters"
        case "string_too_long":
            return f"is too long; use at most {context['max_length']} characters"
    return ""


def _unknown(key: str, valid: list[str]) -> str:
    guess = nearest(key, valid)
    if guess:
        return f"is unknown; did you mean {guess}? (known: {', '.join(valid)})"
    return f"is unknown; remove it (known: {', '.join(valid)})"


def _inner(annotation: Any, part: str | int) -> Any:
    """Type of the member `part` of a value of type `annotation`."""
    if isinstance(part, int):
        return next(iter(get_args(annotation)), None)
    model = _model(annotation)
    for name in model.model_fields if model else ():
        if model is not None and _alias(name, model) == part:
            return model.model_fields[name].annotation
    return None


def _model(annotation: Any) -> type[BaseModel] | None:
    return next((kind for kind in _members(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _members(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        yield from get_args(annotation)
    else:
        yield annotation


def _alias(name: str, model: type[BaseModel]) -> str:
    return model.model_fields[name].alias or name
