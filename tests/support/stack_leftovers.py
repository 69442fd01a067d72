"""What a local stack must not leave behind."""

import os
from pathlib import Path

import psutil


def left_behind(directory: Path) -> list[str]:
    """Command lines and environments of the other processes that name a directory."""
    remaining = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        given = " ".join([*(process.info["cmdline"] or []), *(process.info["environ"] or {}).values()])
        if str(directory) in given and process.pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE:
            remaining.append(given[:200])
    return remaining
