"""Checks the shape of those parts of a pod template that the operator reads. Pure.

The custom resource accepts most of a template unchecked (`api.crd_template`), so these parts may be anything. Other
mistakes the API server refuses when the RayService is applied.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from roost_operator.plan.merge import KEYS

_CONTAINER = {
    "env": [{"valueFrom": {"secretKeyRef": {"name": str, "key": str}}}],
    "envFrom": [{"secretRef": {"name": str}}],
    "ports": [{}],
    "resources": {"limits": {}, "requests": {}},
    "volumeMounts": [{}],
}
_TEMPLATE = {
    "metadata": {"labels": {}, "annotations": {}},
    "spec": {
        "containers": [_CONTAINER],
        "hostAliases": [{}],
        "imagePullSecrets": [{}],
        "initContainers": [_CONTAINER],
        "tolerations": [{}],
        "topologySpreadConstraints": [{}],
        "volumes": [{"secret": {"secretName": str}}],
    },
}
"""Mappings, lists of mappings (in brackets) and texts (`str`)."""


def shape_problem(template: Mapping[str, Any]) -> str:
    """The first part of the wrong type, with its path; empty when there is none."""
    return next(_of_mapping("spec.workers.template", _TEMPLATE, template), "")


def _of_mapping(path: str, shape: Mapping[str, Any], given: Any) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"{path} must be a mapping (key: value)"
        return
    for name, part in shape.items():
        value = given.get(name)
        if value is None or (part is str and isinstance(value, str)):
            continue
        if part is str:
            yield f"{path}.{name} must be a text"
        elif isinstance(part, list):
            yield from _of_list(f"{path}.{name}", KEYS.get(name, ""), part[0], value)
        else:
            yield from _of_mapping(f"{path}.{name}", part, value)


def _of_list(path: str, key: str, shape: Mapping[str, Any], given: Any) -> Iterator[str]:
    if not isinstance(given, list):
        yield f"{path} must be a list (- item)"
        return
    for index, item in enumerate(given):
        yield from _of_mapping(f"{path}[{index}]", shape, item)
        if key and isinstance(item, Mapping) and isinstance(item.get(key), Mapping | list):
            yield f"{path}[{index}].{key} must be a text"
