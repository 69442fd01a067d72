"""The part of a pod template that the custom resource's schema describes; everything else in it is kept unchecked.

The schema of a whole pod template has ten thousand lines. The API server checks the rest when the operator applies the
RayService, whose schema has all of it; the reason in the pool's conditions is then ChildRefused.
"""

from typing import Any

Schema = dict[str, Any]
MOST_CONTAINERS, MOST_RESOURCES = 16, 32
_QUANTITY = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
"""Kubernetes' own pattern for quantities."""
_OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def template_members() -> Schema:
    """Members of `spec.workers.template`."""
    metadata = {
        "type": "object",
        "description": "Labels and annotations of worker pods and of Ray's head.",
        "properties": {"labels": _texts("Labels."), "annotations": _texts("Annotations.")},
    }
    spec = {
        **_OPEN,
        "description": "Fields of a pod's spec.",
        "properties": {
            "containers": _containers(),
            "terminationGracePeriodSeconds": {
                "type": "integer",
                "format": "int64",
                "minimum": 0,
                "description": "Longest time that a pod takes to stop; at least workers.drainTimeoutSeconds.",
            },
        },
    }
    return {"metadata": metadata, "spec": spec}


def _containers() -> Schema:
    quantities = {
        "type": "object",
        "nullable": True,
        "maxProperties": MOST_RESOURCES,
        "additionalProperties": {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": _QUANTITY,
            "maxLength": 64,
            "x-kubernetes-int-or-string": True,
        },
    }
    resources = {
        **_OPEN,
        "nullable": True,
        "description": "What the container requests and may use.",
        "properties": {
            "limits": {**quantities, "description": "Most that the container may use."},
            "requests": {**quantities, "description": "What the scheduler reserves for the container."},
        },
    }
    name = {
        "type": "string",
        "minLength": 1,
        "maxLength": 63,
        "description": "worker is the worker's own container, head that of Ray's head; others join the worker pods.",
    }
    return {
        "type": "array",
        "maxItems": MOST_CONTAINERS,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "description": "Containers, merged by their names.",
        "items": {
            **_OPEN,
            "description": "A container.",
            "required": ["name"],
            "properties": {"name": name, "resources": resources},
        },
    }


def _texts(description: str) -> Schema:
    return {"type": "object", "description": description, "additionalProperties": {"type": "string"}}
