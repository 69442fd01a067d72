"""Merges a partial pod template over another, with the rules of Kubernetes' strategic merge for a pod's lists. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "hostAliases": "ip",
}
"""Lists whose items are merged by a key. Lists in neither table are replaced."""
_JOINED = ("tolerations", "envFrom", "topologySpreadConstraints")
"""Lists that are joined."""
_ONE_OF = (
    {"value", "valueFrom"},
    {"configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef", "secretKeyRef"},
    {"exec", "grpc", "httpGet", "sleep", "tcpSocket"},
)
"""Fields that exclude each other: of a variable, of a variable's source, and of a probe or a hook."""


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` merged over `under`. None in `over` removes a field."""
    excluded = _excluded(over)
    result = {name: value for name, value in under.items() if name not in excluded}
    for name, value in over.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _member(name, result.get(name), value)
    return result


def _excluded(over: Mapping[str, Any]) -> set[str]:
    """Fields that exclude one that `over` sets."""
    given = {name for name, value in over.items() if value is not None}
    return set().union(*(group - given for group in _ONE_OF if group & given))


def _member(name: str, under: Any, over: Any) -> Any:
    if isinstance(under, Mapping) and isinstance(over, Mapping):
        return merged(under, over)
    if isinstance(under, list) and isinstance(over, list):
        if name in _JOINED:
            return [*under, *(item for item in over if item not in under)]
        if name in KEYS:
            return _by_key(KEYS[name], under, over, replace=name == "volumes")
    return over


def _by_key(key: str, under: Sequence[Any], over: Sequence[Any], *, replace: bool) -> list[Any]:
    """Items of `under` in their order, merged with those of `over` that have the same key; then the rest of `over`."""
    given = {item.get(key): item for item in over}
    kept = [
        (given[item.get(key)] if replace else merged(item, given[item.get(key)])) if item.get(key) in given else item
        for item in under
    ]
    known = {item.get(key) for item in under}
    return [*kept, *(item for item in over if item.get(key) not in known)]
