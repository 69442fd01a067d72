"""How a pod of the local image runs this very checkout: the host's Python environment, mounted read-only."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
SYSTEM = (Path("/usr"), Path("/etc/alternatives"), Path("/etc/ssl"))


def mounted_paths(extra: Sequence[Path] = ()) -> list[Path]:
    """Folders of the host that a pod needs: programs and libraries, the interpreter, the environment, the checkout."""
    wanted = [*SYSTEM, Path(sys.base_prefix), Path(sys.prefix), ROOT, *extra]
    real = [path.resolve() for path in wanted if path.exists()]
    # A folder within another that is mounted needs no mount of its own.
    return [path for path in dict.fromkeys(real) if not any(other in path.parents for other in real)]


def volumes(extra: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """`spec.volumes` of such a pod."""
    paths = mounted_paths(extra)
    return [{"name": _name(path), "hostPath": {"path": str(path), "type": "Directory"}} for path in paths]


def volume_mounts(extra: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """`volumeMounts` of its containers: everything is where it is on the host."""
    return [{"name": _name(path), "mountPath": str(path), "readOnly": True} for path in mounted_paths(extra)]


def environment() -> list[dict[str, str]]:
    """`env` of its containers."""
    path = f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return [
        {"name": "PATH", "value": path},
        {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
        {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
    ]


def python() -> str:
    """The interpreter's path, in a pod as on the host."""
    return f"{sys.prefix}/bin/python"


def _name(path: Path) -> str:
    text = "-".join(path.parts[1:]).lower()
    return "host-" + "".join(c if c.isalnum() else "-" for c in text).strip("-")
