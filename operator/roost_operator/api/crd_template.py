"""The part of a pod template that the custom resource's schema and its rules look at; all else in it is kept as it is.

A whole pod template would be ten thousand lines. What this leaves out is checked by the API server when the operator
applies the RayService, whose schema has it; the pool's condition then says ChildRefused.
"""

from typing import Any

Schema = dict[str, Any]
MOST_CONTAINERS, MOST_RESOURCES = 16, 32
_QUANTITY = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
"""As in Kubernetes' own definitions."""
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
        "description": "What it asks for and may use.",
        "properties": {
            "limits": {**quantities, "description": "Most that it may use."},
            "requests": {**quantities, "description": "What the scheduler keeps for it."},
        },
    }
    name = {
        "type": "string",
        "minLength": 1,
        "maxLength": 63,
        "description": "worker is the worker's own container, head that of Ray's head; others are added.",
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
