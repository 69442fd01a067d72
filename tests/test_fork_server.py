"""The server that forks the processes of tests: they end as others do, and with the process that asked for them."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fork_server import ForkedProcess, ForkServer, fork

LIMIT_SECONDS = 60.0
OWNER = "import fork_server, sys; print(fork_server.fork(sys.argv[1], 'time:sleep', 600.0).pid)"


@pytest.fixture(scope="module")
def address() -> str:
    return ForkServer().start()


def test_a_process_ends_with_the_status_of_its_function(address: str) -> None:
    assert fork(address, "operator:add", 1, 2).wait(LIMIT_SECONDS) == 3
    assert fork(address, "operator:truediv", 1, 0).wait(LIMIT_SECONDS) == 1


def test_a_process_has_its_own_environment_and_log(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATER", "not given")
    log = tmp_path / "log"
    process = fork(address, "os:system", "echo $GIVEN $LATER; echo $HOME >&2", environment={"GIVEN": "hello"}, log=log)
    assert process.wait(LIMIT_SECONDS) == 0
    assert log.read_text() == "hello\n\n"


async def test_a_process_is_signalled(address: str) -> None:
    process = await ForkedProcess.start(address, "time:sleep", 600.0)
    assert process.returncode is None
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == process.returncode == -signal.SIGTERM
    process.send_signal(signal.SIGKILL)  # it has ended: nothing else is hit


def test_a_process_dies_with_the_one_that_asked_for_it(address: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", OWNER, address]
    owner = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    with contextlib.suppress(psutil.NoSuchProcess):  # it may be gone already
        psutil.Process(int(owner.stdout)).wait(LIMIT_SECONDS)
