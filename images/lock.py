"""Writes images/ROLE.lock: what each role's image installs, with hashes, at the versions of requirements.lock.

`python images/lock.py [ROLE...]` needs uv. Run it after `make lock`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = {"operator": ("operator",), "gateway": ("gateway",), "worker": ("worker", "convert")}
"""Extras of pyproject.toml that each role installs."""


def lock(role: str) -> None:
    """Raises CalledProcessError when there is no such set of versions."""
    extras = [part for extra in EXTRAS[role] for part in ("--extra", extra)]
    options = ["--quiet", "--universal", "--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate"]
    files = ["--constraint", "requirements.lock", "--output-file", f"images/{role}.lock", "pyproject.toml"]
    subprocess.run([sys.executable, "-m", "uv", "pip", "compile", *options, *extras, *files], cwd=ROOT, check=True)


def main() -> None:
    """All roles, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("roles", nargs="*", help="operator, gateway, worker; all by default")
    for role in parser.parse_args().roles or EXTRAS:
        lock(role)


if __name__ == "__main__":
    main()
