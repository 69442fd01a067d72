"""Clients of other people, installed from hashed lock files into the cache: `make clients`."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

CLIENTS = Path(__file__).parents[1] / "clients"
_NPM = ("package.json", "package-lock.json")


def python_clients() -> Path:
    """The Python interpreter of an environment that has `python.lock`. Takes seconds the first time."""
    folder = _folder("python", ["python.lock"])
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        uv = [sys.executable, "-m", "uv"] if shutil.which("uv") is None else ["uv"]
        _run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        lock = str(CLIENTS / "python.lock")
        install = ["pip", "install", "--quiet", "--python", str(python), "--no-deps", "--require-hashes", "-r", lock]
        _run([*uv, *install])
        (folder / ".ready").touch()
    return python


def node_clients() -> Path:
    """The folder with the programs of `package-lock.json`, Node.js itself among them. Takes a minute the first time."""
    folder = _folder("npm", _NPM)
    if not (folder / ".ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in _NPM:
            shutil.copy(CLIENTS / name, folder)
        # Not `npm ci`: it wants programs for other systems in the lock, which some registries do not pass on.
        _run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], folder)
        (folder / ".ready").touch()
    return folder / "node_modules" / ".bin"


def _folder(kind: str, files: Iterable[str]) -> Path:
    digest = hashlib.sha256(sys.version.encode())
    for name in files:
        digest.update((CLIENTS / name).read_bytes())
    cache = Path(os.environ.get("ROOST_CACHE") or Path.home() / ".cache" / "roost")
    return cache / "clients" / f"{kind}-{digest.hexdigest()[:12]}"


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
