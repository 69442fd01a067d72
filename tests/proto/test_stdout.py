"""A command whose stdout cannot be written says so in one line."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from roost.testing import FakeGateway
from threaded_fake import ThreadedFake, fake_in_thread

COMMANDS = (("--help",), ("sessions", "list"), ("chat", "Hello."))


@pytest.fixture(scope="module")
def fake() -> Iterator[ThreadedFake]:
    with fake_in_thread(FakeGateway) as running:
        yield running


@contextmanager
def full() -> Iterator[int]:
    with open("/dev/full", "w") as stream:
        yield stream.fileno()


@contextmanager
def closed_pipe() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(("opened", "reason"), [(full, "No space left on device"), (closed_pipe, "Broken pipe")])
def test_a_stdout_that_fails_ends_the_command(fake, opened, reason, command) -> None:
    with opened() as stdout:
        ended = roost(fake, command, stdout=stdout)
    errors = [line for line in ended.stderr.splitlines() if not line.startswith("session ")]
    assert errors == [f"error: cannot write to stdout: {reason}"]
    assert ended.returncode == 1


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_stdout_a_command_that_prints_ends(fake, command) -> None:
    ended = roost(fake, command, shell='exec "$@" >&-')
    errors = [line for line in ended.stderr.splitlines() if not line.startswith("session ")]
    assert errors == ["error: cannot write to stdout: Bad file descriptor"]
    assert ended.returncode == 1


def test_without_a_stdout_a_command_that_prints_nothing_goes_on(fake) -> None:
    ended = roost(fake, ("chat", "--session", "default/fake/" + "0" * 26), shell='exec "$@" >&-')
    assert ended.stderr.startswith("error: there is no such session")


def roost(
    fake: ThreadedFake, command: tuple[str, ...], stdout: int = subprocess.DEVNULL, shell: str = 'exec "$@"'
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["/bin/sh", "-c", shell, "sh", sys.executable, "-c", "from roost.cli import main; main()", *command],
        env={**os.environ, "ROOST_TARGET": fake.target},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
