"""Reads a pool as the API server has stored it, whatever definition of the custom resource let it in. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from roost_operator.api.problems import problems
from roost_operator.api.spec import API_VERSION, KIND, AgentPool, Metadata

_NEEDED = (
    ("workers", "replicas"),
    ("workers", "drainTimeoutSeconds"),
    ("sessions", "onPoolDeletion"),
    ("sessions", "retention"),
    ("store", "urlSecretRef"),
)
"""What a deletion goes by, and what the status tells."""
_MODELS = [{"name": "unreadable", "source": "dummy://unreadable"}]


@dataclass(frozen=True, slots=True)
class StoredPool:
    """A pool; one that cannot be read is a stand-in: its name, and of its spec what a deletion needs."""

    pool: AgentPool
    unreadable: str = ""
    """Why, and what to do about it."""


def read_pool(raw: Mapping[str, Any]) -> StoredPool:
    """The pool of a stored document, which has a name, a namespace and, as the API server sees to it, nothing else."""
    given = raw["metadata"]
    metadata = {name: given.get(name) or {} for name in ("labels", "annotations")}
    named = {"name": given["name"], "namespace": given["namespace"]}
    try:
        return StoredPool(_pool(raw.get("spec"), {**metadata, **named}))
    except ValidationError as error:
        found = "; ".join(str(problem) for problem in problems(error, AgentPool))
    pool = _pool(_readable(raw.get("spec")), {"name": "p"})
    return StoredPool(pool.model_copy(update={"metadata": Metadata.model_construct(**named)}), found)


def _pool(spec: Any, metadata: Mapping[str, Any]) -> AgentPool:
    return AgentPool.model_validate({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec})


def _readable(spec: Any) -> dict[str, Any]:
    """A spec with those of the needed fields that can be read, and defaults for all else."""
    made: dict[str, Any] = {"models": _MODELS}
    for part, field in _NEEDED:
        group = spec.get(part) if isinstance(spec, Mapping) else None
        if not isinstance(group, Mapping) or group.get(field) is None:
            continue
        tried = {**made, part: {**made.get(part, {}), field: group[field]}}
        try:
            _pool(tried, {"name": "p"})
        except ValidationError:
            continue
        made = tried
    return made
