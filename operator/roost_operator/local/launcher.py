"""Runs a program that dies with the process that started it.

python -I -S launcher.py PARENT_PID PROGRAM ARGUMENT...

PR_SET_PDEATHSIG outlives exec, so the kernel kills the program even when the supervisor itself is killed.
A launcher is needed because setting it between fork and exec is unsafe in a process that has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def launched(*command: str) -> list[str]:
    """Return the arguments that run `command` so that it dies with this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main() -> None:
    parent = int(sys.argv[1])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before prctl took effect
        sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
