"""Child processes: kept running, stopped for certain, never left behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from roost_operator.local.events import Notice
from roost_operator.local.processes import (
    LONGEST_DELAY_SECONDS,
    STACK_VARIABLE,
    Command,
    ProcessFailedError,
    Supervised,
    kill_stack,
    restart_delay,
)


async def until(holds: Callable[[], bool]) -> None:
    """Returns once `holds`; the test's own timeout ends an endless wait."""
    while not holds():  # noqa: ASYNC110  what is waited for happens in other processes
        await asyncio.sleep(0.01)


def wait_until_reaped(pid: int) -> None:
    """Blocks the event loop until the child is gone, whoever of asyncio and this function reaps it."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    while psutil.pid_exists(pid):
        pass


def command(
    tmp_path: Path, code: str, ready: Callable[[], Awaitable[bool]] | None = None, **changes: object
) -> Command:
    """A Python child that touches `started` when it is ready."""
    body = f"import pathlib, signal, sys, time\npathlib.Path({str(tmp_path / 'started')!r}).touch()\n{code}"

    async def started() -> bool:
        return (tmp_path / "started").exists()

    settings = {"name": "child", "log": tmp_path / "child.log", "ready": ready or started, "stop_seconds": 10.0}
    return Command(argv=(sys.executable, "-c", body), **{**settings, **changes})  # type: ignore[arg-type]


SLEEP = "time.sleep(600)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\npathlib.Path(sys.argv[0])\nprint('deaf', flush=True)\n" + SLEEP


async def test_a_killed_process_comes_back(tmp_path: Path) -> None:
    events: list[Notice] = []
    child = Supervised(command(tmp_path, SLEEP), events.append)
    await child.start()
    first = child.pid
    child.kill()
    await until(lambda: any("is back" in event.text for event in events))
    assert child.pid not in (None, first)
    assert child.restarts == 1
    assert "killed by SIGKILL" in events[0].text
    await child.stop()


async def test_a_launched_process_is_the_one_that_is_started(tmp_path: Path) -> None:
    child = Supervised(command(tmp_path, SLEEP), lambda event: None)
    await child.launch()
    launched = child.pid
    assert launched is not None
    await child.start()
    assert child.pid == launched
    await child.stop()
    assert not psutil.pid_exists(launched)


async def test_a_launched_process_that_dies_is_an_error_of_the_start(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    child = Supervised(command(tmp_path, "sys.exit('no such model')", never), lambda event: None)
    await child.launch()
    with pytest.raises(ProcessFailedError, match=r"(?s)exited with status 1.*no such model"):
        await child.start()


async def test_a_launched_process_can_be_stopped_before_it_is_started(tmp_path: Path) -> None:
    child = Supervised(command(tmp_path, SLEEP), lambda event: None)
    await child.launch()
    launched = child.pid
    await child.stop()
    assert launched is not None
    assert not psutil.pid_exists(launched)


async def test_a_kill_of_a_child_that_was_just_reaped_is_no_error(tmp_path: Path) -> None:
    """Between the end of a child and the event loop's next turn nobody knows of it yet."""
    child = Supervised(command(tmp_path, SLEEP), lambda event: None)
    await child.start()
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until_reaped(first)
    assert child.pid == first, "the event loop had no turn in which to hear of it"
    child.kill()
    await child.stop()


async def test_a_stopped_process_stays_stopped(tmp_path: Path) -> None:
    child = Supervised(command(tmp_path, SLEEP), lambda event: None)
    await child.start()
    pid = child.pid
    await child.stop()
    assert child.pid is None
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert child.restarts == 0


async def test_a_process_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    events: list[Notice] = []

    async def deaf() -> bool:
        log = tmp_path / "child.log"
        return log.exists() and "deaf" in log.read_text()

    child = Supervised(command(tmp_path, DEAF, deaf, stop_seconds=0.2), events.append)
    await child.start()
    await child.stop()
    assert child.pid is None
    assert "did not stop" in events[-1].text


async def test_a_process_that_dies_at_once_is_an_error_with_its_log(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    child = Supervised(command(tmp_path, "sys.exit('no such model')", never), lambda event: None)
    with pytest.raises(ProcessFailedError, match=r"(?s)exited with status 1.*no such model"):
        await child.start()
    await child.stop()


async def test_a_process_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    child = Supervised(command(tmp_path, SLEEP, never, ready_seconds=0.3), lambda event: None)
    with pytest.raises(ProcessFailedError, match="was not ready"):
        await child.start()
    assert child.pid is None


async def test_children_of_a_child_go_with_it(tmp_path: Path) -> None:
    code = "import subprocess\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True)\n" + SLEEP

    async def printed() -> bool:
        log = tmp_path / "child.log"
        return log.exists() and log.read_text().endswith("\n")

    child = Supervised(command(tmp_path, code, printed), lambda event: None)
    await child.start()
    grandchild = psutil.Process(int((tmp_path / "child.log").read_text()))
    await child.stop()
    await until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


def test_processes_die_with_their_supervisor(tmp_path: Path) -> None:
    """Even when it is killed, so that it can stop nothing itself."""
    code = f"""
        import asyncio, pathlib, sys
        from roost_operator.local.processes import Command, Supervised

        log = pathlib.Path({str(tmp_path / "log")!r})

        async def ready():
            return log.exists() and "up" in log.read_text()

        async def main():
            argv = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")
            child = Supervised(Command("child", argv, log, ready), print)
            await child.start()
            print(child.pid, flush=True)
            await asyncio.sleep(600)

        asyncio.run(main())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=60)
    for process in alive:
        process.kill()
    assert not alive


def test_marked_processes_are_found_wherever_they_are() -> None:
    environment = {**os.environ, STACK_VARIABLE: f"test-{os.getpid()}"}
    detached = subprocess.Popen(["sleep", "600"], env=environment, start_new_session=True)
    other = subprocess.Popen(["sleep", "600"], env={**os.environ, STACK_VARIABLE: "another"}, start_new_session=True)
    try:
        assert kill_stack(environment[STACK_VARIABLE]) == 1
        assert detached.wait(timeout=60) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_restarts_slow_down_up_to_a_limit() -> None:
    delays = [restart_delay(failures) for failures in range(100)]
    assert delays[0] < 0.5
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY_SECONDS
