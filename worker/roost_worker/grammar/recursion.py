"""Which definitions of a schema contain themselves. Pure."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import Any

from roost_worker.grammar.keywords import REFERENCE, Schema, map_subschemas


def recursive(definitions: Mapping[str, Schema]) -> frozenset[str]:
    """Return the definitions that contain themselves, and those between two that do."""
    references = {name: set(_references(definition)) for name, definition in definitions.items()}
    referrers: dict[str, set[str]] = {name: set() for name in definitions}
    for name, targets in references.items():
        for target in targets:
            referrers[target].add(name)
    return _unsortable(references) & _unsortable(referrers)


def applied(schema: Any) -> Iterator[str]:
    """Yield the definitions that apply to the same value as the schema."""
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        yield schema["$ref"].removeprefix(REFERENCE)
    for keyword in ("not", "if", "then", "else"):
        yield from applied(schema.get(keyword))
    for keyword in ("allOf", "anyOf", "oneOf"):
        for item in schema.get(keyword, ()):
            yield from applied(item)
    for item in schema.get("dependentSchemas", {}).values():
        yield from applied(item)


def _references(schema: Schema) -> list[str]:
    """Return the definitions that the schema refers to anywhere."""
    names: list[str] = []

    def note(item: Schema, place: str) -> Schema:
        names.extend(_references(item))
        return item

    if isinstance(schema, dict):
        map_subschemas(schema, note)
        names += [schema["$ref"].removeprefix(REFERENCE)] if "$ref" in schema else []
    return names


def _unsortable(graph: Mapping[str, set[str]]) -> frozenset[str]:
    """Return the nodes that are on a cycle or lead to one."""
    sorter, sorted_ = TopologicalSorter(graph), set[str]()
    with suppress(CycleError):  # it sorts what it can
        sorter.prepare()
    while ready := sorter.get_ready():
        sorted_.update(ready)
        sorter.done(*ready)
    return frozenset(graph.keys() - sorted_)
