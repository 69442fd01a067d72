"""Named points at which a test can kill or pause a process. Without `ROOST_FAULT` they do nothing.

`ROOST_FAULT=name:kill[:n]` kills the process with SIGKILL when it passes the point for the n-th time (1 by default);
`ROOST_FAULT=name:pause:n:/path` creates `/path.reached` there and waits until `/path.go` exists, so that the test can
kill something else meanwhile. Several are separated by `,`.
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
"""Every point. `worker.token` is passed once per output token, `worker.stop` between the last token and Finished."""


class _Fault:
    def __init__(self, text: str) -> None:
        name, action, *rest = text.split(":", 3)
        if name not in POINTS or action not in ("kill", "pause"):
            raise ValueError(f"ROOST_FAULT: {text!r} is not one of {', '.join(POINTS)} with :kill or :pause")
        self.name, self.action = name, action
        self.left = int(rest[0]) if rest else 1
        self.path = rest[1] if len(rest) > 1 else ""

    def passed(self) -> None:
        self.left -= 1
        if self.left != 0:
            return
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        Path(self.path + ".reached").touch()
        while not Path(self.path + ".go").exists():
            time.sleep(0.005)


_FAULTS = [_Fault(text) for text in os.environ.get("ROOST_FAULT", "").split(",") if text]


def fault_point(name: str) -> None:
    """Marks the point `name` of `POINTS`."""
    for fault in _FAULTS:
        if fault.name == name:
            fault.passed()
