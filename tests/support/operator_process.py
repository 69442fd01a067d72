"""The operator as a process, with exactly the rights that the chart gives it, and what tests wait for in it.

Operators are forked from a server that has imported them already: to start Python and its libraries anew for each of
dozens of operators would take minutes. `command=True` starts one as its image does.
"""

import asyncio
import contextlib
import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_server import ROOT, ApiServer, KubectlError
from built_binaries import kuberay_definitions
from redis_servers import RedisServer, free_port
from roost import fault_points
from roost_operator.__main__ import main

WAIT_SECONDS = 60.0
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["operator_process"])


def chart_rights(user: str, namespace: str) -> list[dict[str, Any]]:
    """The chart's objects that give the operator its rights, given to `user`; its Lease is in `namespace`."""
    kinds = ("ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding")
    items = yaml.safe_load_all((ROOT / "manifests" / "roost.yaml").read_text())
    rights = [item for item in items if item["kind"] in kinds and item["metadata"]["name"] == "roost-operator"]
    for item in rights:
        if "namespace" in item["metadata"]:
            item["metadata"]["namespace"] = namespace
        if "subjects" in item:
            item["subjects"] = [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]
    return rights


def grant(server: ApiServer, user: str, namespace: str) -> None:
    """Gives `user` what the chart gives the operator. The last such user is the one that has it."""
    server.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "-f",
        "-",
        stdin=yaml.safe_dump_all(chart_rights(user, namespace)),
    )


class OperatorProcess:
    """One operator. Every start of the same identity goes on writing one log."""

    def __init__(
        self,
        server: ApiServer,
        store_url: str,
        namespace: str,
        identity: str,
        *,
        user: str = "operator",
        environment: Mapping[str, str] = {},
        command: bool = False,
        arguments: Sequence[str] = ("-m", "roost_operator"),
    ) -> None:
        """`namespace` is where its Lease is kept; `arguments` are those of Python, with `command`."""
        self.identity, self.metrics, self.liveness = identity, free_port(), free_port()
        self.log = server.directory / f"{namespace}-{identity}.log"
        settings = {
            "KUBECONFIG": str(server.kubeconfig(user)),
            "ROOST_STORE_URL": store_url,
            "ROOST_POOL_KEY": "k" * 32,
            "ROOST_NAMESPACE": namespace,
            "ROOST_IDENTITY": identity,
            "ROOST_RESYNC_SECONDS": "1",
            "ROOST_LEASE_SECONDS": "3",
            "ROOST_METRICS_HOST": "127.0.0.1",
            "ROOST_METRICS_PORT": str(self.metrics),
            "ROOST_LIVENESS": f"http://127.0.0.1:{self.liveness}/healthz",
            **environment,
        }
        self._child: Any = _command(arguments, settings, self.log) if command else _fork(settings, self.log)

    @property
    def pid(self) -> int:
        return int(self._child.pid)

    def returncode(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        if isinstance(self._child, subprocess.Popen):
            return self._child.poll()
        code: int | None = self._child.exitcode
        return code

    def send(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL; it may be stopped or gone."""
        self._child.kill()
        self._child.wait() if isinstance(self._child, subprocess.Popen) else self._child.join()

    def get(self, port: int, path: str) -> str:
        """An answer of one of its HTTP servers. Raises OSError."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def figures(self) -> dict[str, float]:
        """Its metrics by name and labels. Raises OSError."""
        lines = self.get(self.metrics, "/metrics").splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def reconciled(self) -> int:
        """How many reconciliations it has ended. Raises OSError."""
        count = "roost_operator_reconcile_seconds_count"
        return int(sum(value for name, value in self.figures().items() if name.startswith(count)))


def _command(arguments: Sequence[str], settings: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *arguments], env={**os.environ, **settings}, stdout=file, stderr=subprocess.STDOUT
        )


def _fork(settings: Mapping[str, str], log: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:  # Python 3.11's server of forks does not know where to import from
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        multiprocessing.forkserver.ensure_running()
    child = _FORKS.Process(target=_serve, args=(dict(settings), str(log)), daemon=True)
    child.start()
    return child


def _serve(settings: Mapping[str, str], log: str) -> None:
    os.environ.update(settings)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    importlib.reload(fault_points)  # the folder of fault points is read when it is imported
    sys.exit(main())


Start = Callable[..., OperatorProcess]


@pytest.fixture
def operators(api_server: ApiServer, redis_server: RedisServer, namespace: str) -> Iterator[Start]:
    """Starts operators, `start(identity, **options)`, whose Lease is in the test's namespace."""
    if kuberay_definitions() is None:
        pytest.skip("no KubeRay definitions; run `make binaries`")
    grant(api_server, "operator", namespace)
    started: list[OperatorProcess] = []

    def start(identity: str, **options: Any) -> OperatorProcess:
        started.append(OperatorProcess(api_server, redis_server.url, namespace, identity, **options))
        return started[-1]

    yield start
    for operator in started:
        operator.kill()


async def until(
    what: str, holds: Callable[[], bool], *operators: OperatorProcess, seconds: float = WAIT_SECONDS
) -> None:
    """Waits for what happens in other processes. Raises AssertionError with the operators' logs."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(KubectlError, OSError):
            if await asyncio.to_thread(holds):
                return
        if time.monotonic() > end:
            logs = "\n".join(f"{operator.identity}:\n{tail(operator.log)}" for operator in operators)
            raise AssertionError(f"{what}\n{logs}")
        await asyncio.sleep(0.1)


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-4000:] if log.exists() else "(no log)"
