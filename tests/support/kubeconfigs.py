"""Kubeconfig files of servers that tests start."""

from collections.abc import Mapping
from pathlib import Path

import yaml


def write_kubeconfig(path: Path, cluster: Mapping[str, str], user: Mapping[str, str]) -> Path:
    """Writes one of one cluster and one user, each given by its fields; returns `path`."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": dict(cluster)}],
        "users": [{"name": "test", "user": dict(user)}],
    }
    path.write_text(yaml.safe_dump(document))
    return path
