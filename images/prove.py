"""Runs the install steps of a role's Dockerfile in a fresh folder, without Docker: `python images/prove.py operator`.

The COPY and RUN lines of the first stage are run as they are, with /opt/roost and the lock file in that folder;
then the role's modules are imported by the interpreter that was made.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {
    "operator": ("roost_operator.install.__main__", "roost_operator.api.crd"),
    "gateway": ("roost_gateway.__main__", "roost_gateway.probe"),
    "worker": ("roost_worker.serve_app", "roost_worker.model.runner", "roost_worker.convert.store"),
}
"""What a role's image must be able to import."""


def prove(role: str, folder: Path) -> None:
    """Raises CalledProcessError when a step fails."""
    text = (ROOT / f"images/{role}.Dockerfile").read_text().replace("\\\n", " ")
    first = re.split(r"^FROM .*$", text, flags=re.M)[1]
    for line in first.splitlines():
        word, _, rest = line.partition(" ")
        here = rest.replace("/opt/roost", f"{folder}/roost").replace("/tmp/requirements", f"{folder}/requirements")
        if word == "RUN":
            subprocess.run(["sh", "-ec", here.replace("python -m venv", f"{sys.executable} -m venv", 1)], check=True)
        elif word == "COPY":
            _copy(*here.split())
    for module in MODULES[role]:
        subprocess.run([folder / "roost/bin/python", "-c", f"import {module}"], check=True, cwd=folder)
    size = sum(path.stat().st_size for path in (folder / "roost").rglob("*") if path.is_file())
    print(f"{role}: imports {', '.join(MODULES[role])}; {size / 1e6:.0f} MB")


def _copy(source: str, target: str) -> None:
    if (ROOT / source).is_dir():
        shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(ROOT / source, target)


def main() -> None:
    """Roles that are named; the folder is removed at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("roles", nargs="+", choices=list(MODULES))
    for role in parser.parse_args().roles:
        with tempfile.TemporaryDirectory(prefix="roost-image-") as folder:
            prove(role, Path(folder))


if __name__ == "__main__":
    main()
