"""kubectl as tests use it: errors with what it said, objects as dictionaries."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roost_cluster.errors import ClusterError

SECONDS = 120.0


class Kubectl:
    """One kubeconfig and one kubectl."""

    def __init__(self, binary: Path, kubeconfig: Path) -> None:
        self.binary, self.kubeconfig = binary, kubeconfig

    def run(self, *arguments: str, stdin: str | None = None, seconds: float = SECONDS) -> str:
        """Output of `kubectl ARGUMENTS`. Raises ClusterError with its message."""
        done = self._call(arguments, stdin, seconds)
        if done.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def succeeds(self, *arguments: str) -> bool:
        """Whether `kubectl ARGUMENTS` exits with 0."""
        return self._call(arguments, None, SECONDS).returncode == 0

    def get(self, *arguments: str) -> Any:
        """An object, or a list, as a dictionary."""
        return json.loads(self.run("get", *arguments, "--output=json"))

    def apply(self, *objects: Mapping[str, Any], arguments: tuple[str, ...] = ()) -> str:
        """Applies objects. Raises ClusterError when one is refused."""
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        return self.run("apply", *arguments, "--filename=-", stdin=document)

    def wait(self, condition: str, *arguments: str, seconds: float = SECONDS) -> None:
        """Waits for `condition` (`condition=Ready`, `jsonpath=…`, `delete`). Raises ClusterError."""
        self.run("wait", f"--for={condition}", f"--timeout={seconds:.0f}s", *arguments, seconds=seconds + 10)

    def _call(self, arguments: tuple[str, ...], stdin: str | None, seconds: float) -> subprocess.CompletedProcess[str]:
        command = [str(self.binary), "--kubeconfig", str(self.kubeconfig), *arguments]
        try:
            return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"kubectl {' '.join(arguments)}: no answer in {seconds:.0f} s") from error
