"""Named points at which a test can kill or pause a process, or raise. Without `ROOST_FAULT_DIR` they do nothing.

A file `$ROOST_FAULT_DIR/<point>` arms the point; its text is `kill`, `pause` or `raise`, then optionally `:n` for the
n-th time that a process passes it. The first process to do so takes the file away and leaves `<point>.reached` with its
pid, so exactly one process is hit. It kills itself with SIGKILL, or raises InjectedError, or waits until `<point>.go`
exists, so that the test can kill something else first.
"""

import os
import signal
import time
from pathlib import Path

POINTS = (
    "gateway.step.received",
    "gateway.begin.done",
    "gateway.reserve.done",
    "gateway.history.sent",
    "gateway.accepted",
    "gateway.delta.sent",
    "gateway.finished",
    "gateway.commit.done",
    "worker.start",
    "worker.accepted",
    "worker.token",
    "worker.delta.sent",
    "worker.stop",
    "worker.finished",
)
"""On the way of every step. `worker.token` is passed once per output token, `worker.stop` between the last token and
Finished."""

MIGRATION_POINTS = ("gateway.migration.begun", "worker.render.step", "gateway.rendered", "gateway.migrated")
"""On the way of a session to another revision of the model. `worker.render.step` is passed once per step rendered."""

OPERATOR_POINTS = ("operator.call.done",)
"""Passed by the operator after each call that changes something, in the cluster or in the store."""

DIRECTORY_VARIABLE = "ROOST_FAULT_DIR"

_DIRECTORY = os.environ.get(DIRECTORY_VARIABLE)
_passed: dict[tuple[str, int], int] = {}
"""How often each armed file, known by its inode, was passed."""


class InjectedError(Exception):
    """An exception that no code expects, raised by a point that is armed with `raise`."""


def fault_point(name: str) -> None:
    """Marks the point `name` of `POINTS`, `MIGRATION_POINTS` or `OPERATOR_POINTS`. Raises InjectedError where that is
    armed."""
    if _DIRECTORY:
        _pass(Path(_DIRECTORY) / name)


def _pass(armed: Path) -> None:
    try:
        action, _, count = armed.read_text().partition(":")
        arming = (armed.name, armed.stat().st_ino)
        _passed[arming] = _passed.get(arming, 0) + 1
        if _passed[arming] < int(count or 1):
            return
        taken = armed.rename(armed.with_name(f"{armed.name}.taken"))
    except FileNotFoundError:
        return
    taken.write_text(str(os.getpid()))
    taken.rename(armed.with_name(f"{armed.name}.reached"))  # at once, so that nobody reads it without the pid
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "raise":
        raise InjectedError(armed.name)
    while not armed.with_name(f"{armed.name}.go").exists():
        time.sleep(0.002)
