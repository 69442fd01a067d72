"""The state directory of a local pool: used by one stack at a time, with secrets that only the owner can read."""

import fcntl
import json
import os
import secrets
from pathlib import Path
from typing import Self


class StateDirectoryError(RuntimeError):
    """The directory cannot be used; the text names the fix."""


class StateDirectory:
    """A state directory, locked while entered. Entering raises StateDirectoryError when another stack has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateDirectoryError(f"{self.path}: {error.strerror}; give another one with --state-dir") from error
        self._take()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def file(self, *parts: str) -> Path:
        """A path in the directory, whose parent exists."""
        path = self.path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def secret(self, name: str) -> str:
        """A random secret that stays the same as long as the directory exists."""
        path = self.file(name)
        if not path.exists():
            self.write_private(name, secrets.token_hex(32))
        return path.read_text()

    def write_private(self, name: str, text: str) -> Path:
        """Write a file that only its owner can read, atomically."""
        path = self.file(name)
        temporary = path.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        temporary.replace(path)
        return path

    def _take(self) -> None:
        assert self._lock is not None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._lock, 32, 0).decode() or "unknown"
            os.close(self._lock)
            self._lock = None
            raise StateDirectoryError(
                f"{self.path} is in use by process {owner}; stop it, or give another one with --state-dir"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)


def default_state_dir(pool: str) -> Path:
    """The pool's folder `NAMESPACE.NAME` in `$ROOST_STATE`, by default `~/.local/share/roost`.

    Earlier versions called it `NAMESPACE-NAME`, which several pools could share. Such a folder is renamed when this
    pool was the last to run in it. Raises StateDirectoryError while it still runs there.
    """
    root = Path(os.environ.get("ROOST_STATE") or Path.home() / ".local" / "share" / "roost")
    folder, earlier = root / pool.replace("/", "."), root / pool.replace("/", "-")
    if not folder.exists() and _last_pools(earlier) == [pool]:
        with StateDirectory(earlier):
            earlier.rename(folder)
    return folder


def _last_pools(folder: Path) -> object:
    """The pools of the gateway that was the last to start with this folder; None when there was none."""
    try:
        return json.loads((folder / "gateway-1.json").read_text()).get("pools")
    except (OSError, ValueError):
        return None
