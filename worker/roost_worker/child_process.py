"""Child processes of a worker: fresh Python interpreters that die with the worker."""

import ctypes
import os
import signal
import subprocess
import sys
from typing import Any

PR_SET_PDEATHSIG = 1


def spawn_module(module: str, *args: str, **options: Any) -> "subprocess.Popen[bytes]":
    """Run `python -m module PARENT args…`, where PARENT is this process's pid, for `die_with_parent`.

    Call it from a thread that lives as long as the child should. The child finds modules where this process does.
    `options` are Popen's. Raise OSError when the process cannot be created.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, str(os.getpid()), *args],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        start_new_session=True,
        **options,
    )


def die_with_parent(parent: int) -> None:
    """Have Linux kill this process when the thread that started it ends; exit if `parent` is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)
