"""Child processes that are restarted when they die, die with their supervisor, and leave nothing behind."""

import asyncio
import contextlib
import os
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from roost_operator.local.events import Notice, Report
from roost_operator.local.launcher import launched

STACK_VARIABLE = "ROOST_STACK"
"""Environment variable that marks every process of a stack, including all descendants."""

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 10.0
STEADY_SECONDS = 30.0
"""After a run of this length the delays start over."""


class ProcessFailedError(RuntimeError):
    """A process did not become ready. The text holds the end of its log."""


def restart_delay(failures: int) -> float:
    """Seconds to wait before the restart that follows `failures` quick deaths in a row."""
    return min(FIRST_DELAY_SECONDS * 2.0 ** min(failures, 16), LONGEST_DELAY_SECONDS)


@dataclass(frozen=True)
class Command:
    """What to run, and how to know that it is ready."""

    name: str
    argv: Sequence[str]
    log: Path
    ready: Callable[[], Awaitable[bool]]
    """Polled until it returns True."""
    ready_seconds: float = 60.0
    stop_seconds: float = 10.0
    """Time between SIGTERM and SIGKILL."""
    environment: Mapping[str, str] = field(default_factory=dict)


class Supervised:
    """Keeps one command running until it is stopped."""

    def __init__(self, command: Command, report: Report) -> None:
        self.command = command
        self.restarts = 0
        self._report = report
        self._process: Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Process id; None while it is not running."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process is not None and running else None

    async def launch(self) -> None:
        """Create the process. `start` waits until it is ready, and keeps it running from then on."""
        await self._spawn()

    async def start(self) -> None:
        """Start the command, unless it was launched, and return when it is ready. Raises ProcessFailedError."""
        process = self._process or await self._spawn()
        await self._wait_ready(process)
        self._watcher = asyncio.create_task(self._watch(process))

    async def stop(self) -> None:
        """Send SIGTERM to the process, then SIGKILL to its group; return when it is gone. Can be called at any time."""
        self._stopping = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        process = self._process
        if process is None:
            return
        self.kill(signal.SIGTERM)  # not to its group: it stops its children itself
        try:
            async with asyncio.timeout(self.command.stop_seconds):
                await process.wait()
        except TimeoutError:
            self._notify(f"{self.command.name} did not stop within {self.command.stop_seconds:.0f} s, killing it")
        finally:
            _signal_group(process.pid, signal.SIGKILL)
        await process.wait()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the process, if it still runs; it is restarted unless it is being stopped."""
        if self.pid is not None:
            # asyncio may have reaped a child already and set its return code only in the next turn of the loop.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _notify(self, text: str) -> None:
        self._report(Notice(text))

    async def _watch(self, process: Process) -> None:
        failures = 0
        while True:
            begin = time.monotonic()
            code = await process.wait()
            failures = 0 if time.monotonic() - begin > STEADY_SECONDS else failures
            delay = restart_delay(failures)
            self._notify(f"{self.command.name} {_ending(code)}; restarting in {delay:.1f} s")
            _signal_group(process.pid, signal.SIGKILL)
            await asyncio.sleep(delay)
            failures += 1
            self.restarts += 1
            try:
                process = await self._spawn()
                await self._wait_ready(process)
                self._notify(f"{self.command.name} is back")
            except OSError as error:
                self._notify(f"{self.command.name} cannot be started: {error}")
            except ProcessFailedError:
                continue  # reported in the next turn

    async def _spawn(self) -> Process:
        self.command.log.parent.mkdir(parents=True, exist_ok=True)
        with self.command.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *launched(*self.command.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.command.environment},
                # Ctrl-C reaches the supervisor only, which then stops everything in order.
                start_new_session=True,
            )
        return self._process

    async def _wait_ready(self, process: Process) -> None:
        """Return when the command is ready. Raises ProcessFailedError, after killing the process."""
        deadline = time.monotonic() + self.command.ready_seconds
        while process.returncode is None and time.monotonic() < deadline:
            if await self.command.ready():
                return
            await asyncio.sleep(0.05)
        late = process.returncode is None
        _signal_group(process.pid, signal.SIGKILL)
        code = await process.wait()
        why = f"was not ready after {self.command.ready_seconds:.0f} s" if late else _ending(code)
        raise ProcessFailedError(
            f"{self.command.name} {why}; the end of {self.command.log}:\n{log_end(self.command.log)}"
        )


def log_end(log: Path, lines: int = 15) -> str:
    """The last lines of a log file."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 16_384))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


def kill_stack(stack: str) -> int:
    """Send SIGKILL to every process marked with `stack`, except this one; return their number."""
    marked = [process for process in psutil.process_iter() if process.pid != os.getpid() and _is_of(process, stack)]
    for process in marked:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + 10
    while any(_lives(process) for process in marked) and time.monotonic() < deadline:
        time.sleep(0.02)  # not psutil.wait_procs, which would take the exit status from the parent
    return len(marked)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_of(process: psutil.Process, stack: str) -> bool:
    try:
        return process.environ().get(STACK_VARIABLE) == stack
    except psutil.Error:
        return False


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _ending(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
