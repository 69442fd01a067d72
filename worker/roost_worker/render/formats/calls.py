"""Reads calls from the JSON that a model wrote, keeping its own text of the arguments. Pure."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from roost_worker.render.formats.json_scanner import skip_space

ARGUMENT_KEYS = ("arguments", "parameters")
"""Models write either, whatever their format says."""
NOT_A_CALL = "it does not name a tool and its arguments"
_DESCRIPTIVE = frozenset({"name", "id", "type"})
# Numbers stay text: a call's arguments are passed on as written, and Python refuses to read very long integers.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """A call as the model wrote it. `arguments_json` is the text of a JSON object."""

    name: str
    arguments_json: str
    id: str = ""
    """The id that the model wrote; empty if it did not."""
    number: int = field(default=0, compare=False)
    """Index of the call among the turn's parts, where calls that broke off count, too."""


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """JSON that stays text, and why."""

    source: str
    reason: str


def read_calls(source: str, tools: Collection[str], key: str) -> list[WrittenCall | RefusedCall]:
    """Return what each object in `source` is: the text of an object or of an array, as `JsonScanner` accepts it.

    Only `tools` can be called. An object that holds both of `ARGUMENT_KEYS` is read by the format's own `key`.
    """
    elements = [element for _, element in _split(source)] if source.startswith("[") else [source]
    return [_read(element, tools, key) for element in elements]


def _read(source: str, tools: Collection[str], key: str) -> WrittenCall | RefusedCall:
    if not source.startswith("{"):
        return RefusedCall(source, NOT_A_CALL)
    pairs = list(_split(source))
    members = dict(pairs)
    name, call_id = (_text(members.get(key, "")) for key in ("name", "id"))
    given = [members[own] for own in (key, *ARGUMENT_KEYS) if own in members]
    if not name or not (given or members.keys() <= _DESCRIPTIVE):
        return RefusedCall(source, NOT_A_CALL)
    arguments = given[0] if given else "{}"
    if name not in tools:
        return RefusedCall(source, f"the session has no tool {name[:64]!r}")
    if not arguments.startswith("{"):
        return RefusedCall(source, f"the arguments of {name!r} are not a JSON object")
    if len(pairs) > len(members):
        return RefusedCall(source, f"the call of {name!r} holds a key twice")
    return WrittenCall(name, arguments, call_id)


def _text(source: str) -> str:
    """Return the string in a JSON text; an empty one for other values."""
    return str(_DECODER.decode(source)) if source.startswith('"') else ""


def _split(source: str) -> Iterator[tuple[str, str]]:
    """Yield key and text of each value in an object; in an array keys are empty. `source` must be valid JSON."""
    has_keys, key = source.startswith("{"), ""
    at = skip_space(source, 1)
    while source[at] not in "]}":
        if has_keys:
            key, at = _DECODER.raw_decode(source, at)
            at = skip_space(source, skip_space(source, at) + 1)
        _, end = _DECODER.raw_decode(source, at)
        yield key, source[at:end]
        at = skip_space(source, end)
        if source[at] == ",":
            at = skip_space(source, at + 1)
