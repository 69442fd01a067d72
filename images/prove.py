"""Proves a role's Dockerfile without Docker: `python images/prove.py operator`. `make check` lints them.

The COPY and RUN lines of the first stage are run as they are, in a fresh folder that holds /opt/roost and the lock.
Then what the image is for is run by the interpreter that was made, as user 65532 on a read-only root (`confined.py`).
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from confined import ENVIRONMENT, can_confine, confined

ROOT = Path(__file__).parents[1]
SECONDS = 300


@dataclass(frozen=True)
class Check:
    """A command of the image, its exit status, and a part of what it says."""

    command: tuple[str, ...]
    status: int = 0
    says: str = ""


def imports(*modules: str) -> Check:
    """The image can import these."""
    return Check(("python", "-c", f"import {', '.join(modules)}"))


NO_TORCH = Check(("python", "-c", "import torch"), 1, "No module named 'torch'")
READ_ONLY = Check(("sh", "-c", "echo x >/opt/roost/x"), 2, "Read-only file system")
CHECKS = {
    "operator": (
        imports("roost_operator.kubernetes.handlers", "roost_operator.install.__main__", "roost_operator.api.crd"),
        Check(("python", "-m", "roost_operator"), 2, "set ROOST_POOL_KEY"),
        Check(("python", "-m", "roost_operator.install", "--help"), 0, "refuse-pools"),
        NO_TORCH,
    ),
    "gateway": (
        imports("roost_gateway.front.server", "roost_gateway.probe"),
        Check(("python", "-m", "roost_gateway", "--help"), 0, "--config"),
        Check(("python", "-m", "roost_gateway.probe", "localhost:1"), 1, "UNAVAILABLE"),
        NO_TORCH,
    ),
    "worker": (
        imports("roost_worker.serve_app", "roost_worker.model.runner", "roost_worker.convert.store"),
        Check(("python", "-m", "roost_worker", "--help"), 0, "--config"),
        Check(("ray", "--version"), 0, "ray, version"),
        Check(("bash", "-c", "command -v ray"), 0, "/opt/roost/bin/ray"),
        Check(("python", "-c", "from roost_worker.kernels.compiler import compiled; print(compiled())"), 0, ".so"),
    ),
}
"""What a role's image must be able to do; KubeRay starts Ray by bash."""


def prove(role: str, folder: Path) -> None:
    """Raises CalledProcessError when a step fails, SystemExit when the image would not do what it is for."""
    environment, root = folder / "roost", folder / "root"
    _install(role, folder)
    root.mkdir()
    confine = can_confine()
    for check in (*CHECKS[role], *((READ_ONLY,) if confine else ())):
        _run(check, confined(environment, root, check.command) if confine else list(check.command), environment)
    size = sum(path.lstat().st_size for path in environment.rglob("*") if path.is_file())
    how = "as user 65532 on a read-only root" if confine else "as this user, since only root on Linux can confine it"
    print(f"{role}: {len(CHECKS[role])} checks hold, {how}; /opt/roost has {size / 1e6:.0f} MB")


def _install(role: str, folder: Path) -> None:
    text = (ROOT / f"images/{role}.Dockerfile").read_text().replace("\\\n", " ")
    first = re.split(r"^FROM .*$", text, flags=re.M)[1]
    for line in first.splitlines():
        word, _, rest = line.partition(" ")
        here = rest.replace("/opt/roost", f"{folder}/roost").replace("/tmp/requirements", f"{folder}/requirements")
        if word == "RUN":
            subprocess.run(["sh", "-ec", here.replace("python -m venv", f"{sys.executable} -m venv", 1)], check=True)
        elif word == "COPY":
            _copy(*here.split())


def _copy(source: str, target: str) -> None:
    if (ROOT / source).is_dir():
        shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(ROOT / source, target)


def _run(check: Check, command: list[str], environment: Path) -> None:
    variables = ENVIRONMENT if command[0] == "unshare" else {**ENVIRONMENT, "PATH": f"{environment}/bin:/usr/bin:/bin"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=SECONDS, check=False)
    output = done.stdout + done.stderr
    if done.returncode != check.status or check.says not in output:
        sys.exit(
            f"{' '.join(check.command)}: exit status {done.returncode}, expected {check.status}:\n{output[-2000:]}"
        )


def main() -> None:
    """Roles that are named; the folder is removed at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roles", nargs="*", help=f"{', '.join(CHECKS)}; all by default")
    arguments = parser.parse_args()
    roles = arguments.roles or list(CHECKS)
    if unknown := set(roles) - set(CHECKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(CHECKS)}")
    for role in roles:
        with tempfile.TemporaryDirectory(prefix="roost-image-") as folder:
            prove(role, Path(folder))


if __name__ == "__main__":
    main()
