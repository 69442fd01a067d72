"""Ray's folder of a stack, in the system's temporary directory: locked while the stack lives, so that the next start
can tell what a killed one has left there."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import psutil

PREFIX = "roost-ray-"


class RayFolder:
    """A new folder for Ray's files. It stays until `remove`, or until the first start after its process has died."""

    def __init__(self) -> None:
        lock: int | None = None
        while lock is None:  # until the start of another stack does not take it for a leftover
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            lock = _lock(self.path)
        self._lock = lock

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_leftovers() -> None:
    """Remove this user's folders of stacks that are gone."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        lock = _lock(path)
        if lock is None:
            continue
        try:
            if os.fstat(lock).st_uid == os.getuid() and not _is_in_use(path):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _lock(path: Path) -> int | None:
    """The descriptor of the locked folder; None when it is locked already, gone, or not ours to open."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(folder), path.stat()):
            return folder
    except OSError:
        pass
    os.close(folder)
    return None


def _is_in_use(path: Path) -> bool:
    """Whether a process was given the folder: Ray's, which end a little after their stack, or those of a stack of an
    earlier version, which did not lock it."""
    return any(str(path) in " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
