"""Processes that are ours: a pid file with the start time, a log, and an end by pid, never by name."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from roost_cluster.errors import ClusterError
from roost_cluster.layout import Layout

POLL_SECONDS = 0.1
LOG_LINES = 15


def start_time(pid: int) -> str | None:
    """When process `pid` began, in the kernel's ticks; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def wait_until(what: str, check: Callable[[], bool], seconds: float) -> None:
    """Asks `check` until it says yes. Raises ClusterError naming `what` when the time is over."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise ClusterError(f"not ready in {seconds:.0f} s: {what}")
        time.sleep(POLL_SECONDS)


class Component:
    """One process of the cluster. Subclasses say how it is run and when it is ready."""

    name: str
    ready_seconds = 60.0
    stop_seconds = 5.0
    """Between SIGTERM and SIGKILL."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def command(self) -> Sequence[str | Path]:
        """The command line; configuration files are written here."""
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return {}

    @property
    def log(self) -> Path:
        return self.layout.logs / self.name

    def start(self) -> None:
        """Starts it and waits until it is ready. Raises ClusterError with the end of its log."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment()},
                start_new_session=True,
            )
        remember(self.layout, self.name, process)
        try:
            wait_until(self.name, lambda: process.poll() is not None or self.ready(), self.ready_seconds)
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self._tail()}") from error
        if process.poll() is not None:
            raise ClusterError(f"{self.name} exited with {process.returncode}\n{self._tail()}")

    def kill(self) -> None:
        """SIGKILL at once, for tests of what happens then."""
        stop(self.layout, self.name, 0)

    def _tail(self) -> str:
        return f"{self.log}:\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])


_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
"""Children of this very process, which must be reaped."""


def remember(layout: Layout, name: str, process: subprocess.Popen[bytes]) -> None:
    """Writes the pid file, by which a later process can end what a killed one left."""
    _CHILDREN[process.pid] = process
    (layout.processes / name).write_text(f"{process.pid} {start_time(process.pid)}")


def stop(layout: Layout, name: str, seconds: float) -> None:
    """SIGTERM, then SIGKILL after `seconds`; only a process whose start time is the one we wrote."""
    file = layout.processes / name
    if not file.exists():
        return
    pid, started = file.read_text().split()
    _end(int(pid), started, seconds)
    file.unlink()


def _end(pid: int, started: str, seconds: float) -> None:
    if start_time(pid) == started and seconds:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while start_time(pid) == started and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    if start_time(pid) == started:
        os.kill(pid, signal.SIGKILL)
    child = _CHILDREN.pop(pid, None)
    if child is not None:
        child.wait()
