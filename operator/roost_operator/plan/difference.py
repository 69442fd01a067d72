"""Which children must be applied: those that are missing, that somebody edited, or that are wanted otherwise; and which
objects are a pool's at all. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from roost_operator.api.spec import KIND, AgentPool
from roost_operator.plan import names
from roost_operator.plan.observed import Manifest, Reference


def reference(manifest: Mapping[str, Any]) -> Reference:
    """The reference of a child."""
    return Reference(manifest["kind"], manifest["metadata"]["name"])


def belongs(live: Mapping[str, Any], pool: AgentPool) -> bool:
    """Whether an object is the pool's: controlled by it or by a former one of its name, whose objects the garbage
    collector has yet to find; or with our labels and no controller, left by a pool that was deleted as an orphan."""
    metadata = live["metadata"]
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller"):
            return bool(owner["kind"] == KIND and owner["name"] == pool.metadata.name)
    found = metadata.get("labels") or {}
    return all(found.get(name) == value for name, value in names.labels(pool).items())


def to_apply(desired: Sequence[dict[str, Any]], live: Mapping[Reference, Manifest]) -> list[dict[str, Any]]:
    """Children of `desired` that are not what they should be."""
    return [manifest for manifest in desired if not is_current(manifest, live.get(reference(manifest)))]


def is_current(desired: Mapping[str, Any], live: Manifest | None) -> bool:
    """Whether every field we apply is there as we apply it. Others may add fields; the annotation with our digest tells
    of fields that we applied once and no longer want."""
    return live is not None and contains(live, desired)


def contains(live: Any, desired: Any) -> bool:
    """Whether `live` says everything that `desired` does. Lists are of equal length: their owner is one."""
    if isinstance(desired, Mapping):
        return isinstance(live, Mapping) and all(_holds(live, name, value) for name, value in desired.items())
    if isinstance(desired, (list, tuple)):
        if not isinstance(live, (list, tuple)) or len(live) != len(desired):
            return False
        return all(contains(one, other) for one, other in zip(live, desired, strict=True))
    return bool(live == desired) and isinstance(live, bool) == isinstance(desired, bool)


def _holds(live: Mapping[str, Any], name: str, value: Any) -> bool:
    if name not in live:
        return value in ({}, []) and not isinstance(value, bool)  # the API server drops what is empty
    return contains(live[name], value)


def stamped(manifest: dict[str, Any], namespace: str, labels: Mapping[str, str], owner: Manifest) -> dict[str, Any]:
    """`manifest` with namespace, `labels` over its own, owner and, among its annotations, the digest of what is
    applied."""
    metadata = {
        **manifest["metadata"],
        "namespace": namespace,
        "labels": {**manifest["metadata"].get("labels", {}), **labels},
        "ownerReferences": [dict(owner)],
    }
    kept = metadata.get("annotations", {})
    whole = {**manifest, "metadata": metadata}
    return {**whole, "metadata": {**metadata, "annotations": {**kept, names.APPLIED: names.digest(whole)}}}
