"""Processes forked from a server that has imported their code: to start Python with torch or gRPC takes CPU seconds.

The server forks a process for each connection to its socket. The process dies when the connection is closed, and so
with the process that asked for it.
"""

import asyncio
import atexit
import contextlib
import gc
import importlib
import os
import pkgutil
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any, NoReturn, Self

from roost import fault_points
from roost_worker.child_process import die_with_parent

SERVER = "import fork_server; fork_server.main()"


@dataclass(frozen=True)
class Call:
    """What a forked process runs: it exits with what `function` returns, as `sys.exit` does."""

    function: str
    """`module:name`"""
    arguments: Sequence[Any]
    command_line: Sequence[str]
    """`sys.argv` without the program."""
    environment: Mapping[str, str]
    log: Path | None
    """Where stdout and stderr go, if not where those of the server go."""


class Forked:
    """A forked process. Its methods are those of `subprocess.Popen`."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        """Waits until the server has imported its modules."""
        self._connection = connection
        self.pid: int = connection.recv()
        self.returncode: int | None = None

    def fileno(self) -> int:
        """Can be read from when the process has ended."""
        return self._connection.fileno()

    def poll(self) -> int | None:
        if self.returncode is None and self._connection.poll():
            self.returncode = self._connection.recv()
            self._connection.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises TimeoutError."""
        if self.returncode is None and not self._connection.poll(timeout):
            raise TimeoutError(f"process {self.pid} has not ended after {timeout} s")
        code = self.poll()
        assert code is not None
        return code

    def kill(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def fork(
    address: str,
    function: str,
    *arguments: Any,
    command_line: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Forked:
    """Have the server at `address` run `function(*arguments)`, by default in this process's environment; see `Call`."""
    if log is not None:
        log.touch()  # it can be read from now on
    connection = Client(address)
    connection.send(Call(function, arguments, command_line, dict(environment or os.environ), log))
    return Forked(connection)


class ForkedProcess:
    """A forked process. Its methods are those of `asyncio.subprocess.Process`."""

    def __init__(self, forked: Forked) -> None:
        self.pid = forked.pid
        self._forked = forked
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(forked.fileno(), self._end)

    @classmethod
    async def start(cls, address: str, function: str, *arguments: Any, **settings: Any) -> Self:
        """See `fork`."""
        return cls(await asyncio.to_thread(fork, address, function, *arguments, **settings))

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._forked.fileno())
        self._ended.set_result(self._forked.wait())


class ForkServer:
    """A server that has imported `modules`, which starts no thread and uses no GPU: its forks could not. OpenMP has one
    thread in them."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._address = ""

    def start(self) -> str:
        """Starts the server unless it runs; returns its address. It dies with the thread that started it."""
        self._address = self._address or self._start()
        return self._address

    def _start(self) -> str:
        folder = tempfile.mkdtemp(prefix="forks-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        address = f"{folder}/socket"
        path = os.pathsep.join(path for path in sys.path if path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(64)
            server = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(os.getpid()), str(listener.fileno()), *self._modules],
                pass_fds=(listener.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )
        atexit.register(server.wait)
        atexit.register(server.kill)
        return address


def main() -> None:
    """Run the server. Returns in the forked processes only."""
    parent, listener, *modules = sys.argv[1:]
    die_with_parent(int(parent))
    given = set(os.environ)
    for module in modules:
        importlib.import_module(module)
    for name in given:
        del os.environ[name]  # each process gets its own; what imports have set stays, as it does without a fork
    _serve(socket.socket(fileno=int(listener)))


def _serve(listener: socket.socket) -> None:
    gc.collect()
    gc.freeze()  # what is imported stays: a collection in a forked process would copy its memory
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = os.getpid()
    while True:
        accepted, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent(server)
            _fork_and_wait(Connection(accepted.detach()))
            return
        accepted.close()


def _fork_and_wait(connection: "Connection[Any, Any]") -> None:
    """Returns in the child. This process reports the child's end, and kills it when the connection is closed."""
    call: Call = connection.recv()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        connection.close()
        die_with_parent(parent)
        _run(call)
    with contextlib.suppress(OSError):
        connection.send(child)
    select.select([os.pidfd_open(child), connection], [], [])
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        connection.send(os.waitstatus_to_exitcode(status))
    os._exit(0)


def _run(call: Call) -> NoReturn:
    os.setsid()
    os.environ.update(call.environment)
    if call.log is not None:
        log = os.open(call.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    sys.argv[1:] = call.command_line
    importlib.reload(fault_points)  # it reads the environment when it is imported
    sys.exit(pkgutil.resolve_name(call.function)(*call.arguments))


WORKERS = ForkServer("follower_rank", "forked_worker")
GATEWAYS = ForkServer("roost_gateway.__main__", "fault_client")
