"""Reads an `AgentPool` from a YAML file. Every error names file, line, field and fix."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from roost_operator.api.problems import Location, path, problems
from roost_operator.api.spec import AgentPool

_SERVER_FIELDS = (
    "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
    "managedFields", "ownerReferences", "finalizers", "selfLink",
)  # fmt: skip


class PoolFileError(ValueError):
    """The file is not a valid AgentPool. The text has one line per fault, each with line, field and fix."""


def load_pool(file: Path) -> AgentPool:
    """The pool that `file` describes. Raises PoolFileError."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PoolFileError(f"{file}: cannot be read ({error}); give a YAML file with -f") from error
    return parse_pool(text, str(file))


def parse_pool(text: str, name: str = "pool.yaml") -> AgentPool:
    """The pool that a YAML text describes. Raises PoolFileError, where `name` stands before each fault."""
    node = _single_document(text, name)
    try:
        _refuse_duplicate_keys(node, name)
        document = yaml.safe_load(text)
    except PoolFileError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _invalid_yaml(error, name) from error
    if not isinstance(document, dict):
        raise PoolFileError(f"{name}:1: is not a mapping; start with apiVersion: roost.dev/v1alpha1")
    try:
        return AgentPool.model_validate(_without_server_fields(document))
    except ValidationError as error:
        faults = [f"{name}:{_line(node, fault.location)}: {fault}" for fault in problems(error, AgentPool)]
        raise PoolFileError("\n".join(faults)) from error


def _single_document(text: str, name: str) -> yaml.Node:
    try:
        documents = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
    except (yaml.YAMLError, RecursionError) as error:
        raise _invalid_yaml(error, name) from error
    if len(documents) != 1:
        content = f"holds {len(documents)} documents" if documents else "is empty"
        raise PoolFileError(f"{name}:1: {content}; give exactly one AgentPool in a file")
    return documents[0]


def _invalid_yaml(error: Exception, name: str) -> PoolFileError:
    """The error for a text that cannot be parsed, or that has an impossible value such as the 45th of a month."""
    if isinstance(error, RecursionError):
        return PoolFileError(f"{name}:1: is nested without end; write lists and mappings out instead of aliases")
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark else 1
    return PoolFileError(f"{name}:{line}: is not valid YAML: {getattr(error, 'problem', None) or error}")


def _refuse_duplicate_keys(node: yaml.Node, name: str, location: Location = ()) -> None:
    keys: set[str | int] = set()
    for key, child, line in _children(node):
        if key in keys:
            raise PoolFileError(f"{name}:{line}: {path((*location, key))}: is given twice; remove one")
        keys.add(key)
        _refuse_duplicate_keys(child, name, (*location, key))


def _children(node: yaml.Node) -> list[tuple[str | int, yaml.Node, int]]:
    if isinstance(node, yaml.MappingNode):
        return [(str(key.value), value, key.start_mark.line + 1) for key, value in node.value]
    if isinstance(node, yaml.SequenceNode):
        return [(index, child, child.start_mark.line + 1) for index, child in enumerate(node.value)]
    return []


def _line(node: yaml.Node, location: Location) -> int:
    """The line of the deepest part of `location` that the file has."""
    line = node.start_mark.line + 1
    for part in location:
        child = next(((value, at) for key, value, at in _children(node) if key == part), None)
        if child is None:
            break
        node, line = child
    return line


def _without_server_fields(document: dict[str, Any]) -> dict[str, Any]:
    """The document without what `kubectl get -o yaml` adds: the status and some metadata."""
    kept = {key: value for key, value in document.items() if key != "status"}
    metadata = kept.get("metadata")
    if isinstance(metadata, dict):
        kept["metadata"] = {key: value for key, value in metadata.items() if key not in _SERVER_FIELDS}
    return kept
