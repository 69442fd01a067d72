"""Which children must be applied, because they are missing, were edited or are to change; and which objects belong to a
pool. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from roost_operator.api.spec import KIND, AgentPool
from roost_operator.plan import names
from roost_operator.plan.observed import Manifest, Reference


def reference(manifest: Mapping[str, Any]) -> Reference:
    """The reference of a child's manifest."""
    return Reference(manifest["kind"], manifest["metadata"]["name"])


def belongs(live: Mapping[str, Any], pool: AgentPool) -> bool:
    """Whether an object belongs to the pool.

    It does if its controller is this pool or an earlier one of the same name, whose objects the garbage collector has
    not removed yet; or if it has no controller but our labels, as after a pool was deleted with `--cascade=orphan`.
    """
    metadata = live["metadata"]
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller"):
            return bool(owner["kind"] == KIND and owner["name"] == pool.metadata.name)
    labels = metadata.get("labels") or {}
    return all(labels.get(name) == value for name, value in names.labels(pool).items())


def to_apply(desired: Sequence[dict[str, Any]], live: Mapping[Reference, Manifest]) -> list[dict[str, Any]]:
    """Those of `desired` that are missing or differ."""
    return [manifest for manifest in desired if not is_current(manifest, live.get(reference(manifest)))]


def is_current(desired: Mapping[str, Any], live: Manifest | None) -> bool:
    """Whether `live` has every field of `desired`. Others may add fields. A field that was applied before and is no
    longer wanted changes the annotation with our digest (`names.APPLIED`)."""
    return live is not None and contains(live, desired)


def contains(live: Any, desired: Any) -> bool:
    """Whether `live` has all that `desired` has. Lists must be of equal length, since each list has one owner."""
    if isinstance(desired, Mapping):
        return isinstance(live, Mapping) and all(_holds(live, name, value) for name, value in desired.items())
    if isinstance(desired, (list, tuple)):
        if not isinstance(live, (list, tuple)) or len(live) != len(desired):
            return False
        return all(contains(*items) for items in zip(live, desired, strict=True))
    return bool(live == desired) and isinstance(live, bool) == isinstance(desired, bool)


def _holds(live: Mapping[str, Any], name: str, value: Any) -> bool:
    if name not in live:
        return value in ({}, []) and not isinstance(value, bool)  # the API server drops what is empty
    return contains(live[name], value)


def stamped(manifest: dict[str, Any], namespace: str, labels: Mapping[str, str], owner: Manifest) -> dict[str, Any]:
    """`manifest` with namespace, owner, `labels` added to its own, and an annotation with the digest of all that."""
    metadata = {
        **manifest["metadata"],
        "namespace": namespace,
        "labels": {**manifest["metadata"].get("labels", {}), **labels},
        "ownerReferences": [dict(owner)],
    }
    whole = {**manifest, "metadata": metadata}
    annotations = {**metadata.get("annotations", {}), names.APPLIED: names.digest(whole)}
    return {**whole, "metadata": {**metadata, "annotations": annotations}}
