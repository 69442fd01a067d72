"""Reads a pool as the API server stored it, whichever version of the definition accepted it. Pure."""

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
"""Fields that a deletion or the status needs."""
_MODELS = [{"name": "unreadable", "source": "dummy://unreadable"}]


@dataclass(frozen=True, slots=True)
class StoredPool:
    """A pool, or a stand-in for one that cannot be read: its name, and the part of its spec that a deletion needs."""

    pool: AgentPool
    unreadable: str = ""
    """Why the spec cannot be read, and what to do about it."""


def read_pool(raw: Mapping[str, Any]) -> StoredPool:
    """The pool of a stored document. The API server ensures a name and a namespace, and nothing else."""
    stored = raw["metadata"]
    identity = {"name": stored["name"], "namespace": stored["namespace"]}
    optional = {name: stored.get(name) or {} for name in ("labels", "annotations")}
    try:
        return StoredPool(_pool(raw.get("spec"), {**optional, **identity}))
    except ValidationError as error:
        unreadable = "; ".join(str(problem) for problem in problems(error, AgentPool))
    stand_in = _pool(_readable(raw.get("spec")), {"name": "p"})
    metadata = Metadata.model_construct(**identity)
    return StoredPool(stand_in.model_copy(update={"metadata": metadata}), unreadable)


def _pool(spec: Any, metadata: Mapping[str, Any]) -> AgentPool:
    return AgentPool.model_validate({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec})


def _readable(spec: Any) -> dict[str, Any]:
    """A spec of the needed fields that can be read, with defaults for all others."""
    readable: dict[str, Any] = {"models": _MODELS}
    for part, field in _NEEDED:
        group = spec.get(part) if isinstance(spec, Mapping) else None
        if not isinstance(group, Mapping) or group.get(field) is None:
            continue
        extended = {**readable, part: {**readable.get(part, {}), field: group[field]}}
        try:
            _pool(extended, {"name": "p"})
        except ValidationError:
            continue
        readable = extended
    return readable
