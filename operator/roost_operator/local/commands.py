"""`roost up`."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from roost.addresses import is_loopback
from roost.cli.report import report
from roost.contract.lease import WorkerLease
from roost.contract.model_limits import describe
from roost_gateway.config import ConfigError
from roost_gateway.front.credentials import Authenticator
from roost_operator.api.limits import remaining
from roost_operator.api.loader import PoolFileError, load_pool
from roost_operator.api.spec import AgentPool
from roost_operator.local.events import Notice
from roost_operator.local.ports import PortTakenError
from roost_operator.local.processes import STACK_VARIABLE, ProcessFailedError, kill_stack
from roost_operator.local.runner import LocalStack, StackError, StackOptions
from roost_operator.local.state_dir import StateDirectoryError, default_state_dir
from roost_worker.convert.errors import ConvertError

STARTUP_ERRORS = (PoolFileError, PortTakenError, ProcessFailedError, StackError, StateDirectoryError, ConvertError)


def up(
    file: Annotated[Path, typer.Option("--file", "-f", help="AgentPool to run.")],
    state_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where sessions and logs are kept; the default is NAMESPACE.NAME in $ROOST_STATE or in "
            "~/.local/share/roost.",
            envvar="ROOST_STATE_DIR",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=64_000, help="Port of the first gateway; 0 takes free ones.")] = 7433,
    http_port: Annotated[
        int | None,
        typer.Option(min=0, max=65_000, help="Port of the first gateway's HTTP, 1000 above --port unless given."),
    ] = None,
    gateways: Annotated[int, typer.Option(min=1, max=16, help="Gateways to run.")] = 2,
    host: Annotated[
        str, typer.Option(help="Address that gateways listen on; :: is every IPv4 and IPv6 address.")
    ] = "127.0.0.1",
    api_keys: Annotated[
        Path | None, typer.Option(help="File of API keys (`roost keys hash` makes one); needed off loopback.")
    ] = None,
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Workers as Ray Serve replicas.")] = True,
) -> None:
    """Run a pool on this machine until Ctrl-C: Redis, workers and gateways."""
    console = Console(stderr=True, highlight=False)
    host = host.strip("[]")
    try:
        pool = load_pool(file)
        _check_exposure(host, api_keys)
        options = StackOptions(
            state_dir=state_dir or default_state_dir(pool.pool),
            host=host,
            port=port,
            http_port=http_port,
            gateways=gateways,
            ray=ray,
            key_file=api_keys,
        )
        code = asyncio.run(_run(pool, options, console))
    except STARTUP_ERRORS as error:
        report(str(error))
        code = 1
    raise typer.Exit(code)


def _check_exposure(host: str, api_keys: Path | None) -> None:
    if api_keys is None and not is_loopback(host):
        raise StackError(f"--host {host} can be reached by others; give a file of API keys with --api-keys")
    try:
        Authenticator(api_keys)
    except ConfigError as error:
        raise StackError(f"{error}; `roost keys hash` makes one for --api-keys") from error


async def _run(pool: AgentPool, options: StackOptions, console: Console) -> int:
    """Run until a signal; returns the exit status: 0 when the stack was up, 130 when it never came up."""
    reporter = Reporter(console)
    was_up = False
    with stopped_by_signals(console):
        try:
            async with LocalStack(pool, options, reporter) as stack:
                was_up = True
                reporter.close()
                _print_addresses(console, stack)
                print_limits(console, pool, await stack.leases())
                await asyncio.Event().wait()
        finally:
            reporter.close()
    return 0 if was_up else 130


@contextmanager
def stopped_by_signals(console: Console) -> Iterator[None]:
    """Runs a block that the first SIGINT or SIGTERM ends, by cancelling the current task; the second kills its stack.

    Errors after the first signal are dropped, since parts that are stopped half-way may fail.
    """
    task, stopping = asyncio.current_task(), False
    assert task is not None

    def on_signal() -> None:
        nonlocal stopping
        if stopping:
            kill_stack(os.environ.get(STACK_VARIABLE, "none"))
            return
        stopping = True
        console.print("Stopping. Send the signal again to kill everything.")
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    try:
        yield
    except (asyncio.CancelledError, *STARTUP_ERRORS):
        if not stopping:
            raise
        console.print("Stopped.")


def _print_addresses(console: Console, stack: LocalStack) -> None:
    first, roost = stack.targets[0], _command_name()
    console.print(f"[bold green]Pool {stack.pool.pool} is up[/] at {escape(', '.join(stack.targets))}")
    if stack.pool.spec.suspend:
        console.print("It is suspended: sessions can be read, steps are refused. Remove spec.suspend to run workers.")
    console.print(f"  {roost} chat --target {first} --pool {stack.pool.pool}", soft_wrap=True)
    console.print(f"  {roost} sessions list --target {first} --pool {stack.pool.pool}", soft_wrap=True)
    http = stack.http_targets[0]
    console.print(f"  base URL of OpenAI's API: http://{http}/v1, of Anthropic's: http://{http}", soft_wrap=True)
    console.print(
        f"Sessions, logs: {escape(str(stack.options.state_dir))}. Ctrl-C stops everything; sessions stay.",
        soft_wrap=True,
    )


def print_limits(console: Console, pool: AgentPool, leases: Sequence[WorkerLease]) -> None:
    """Print a line for each limit of the workers' model."""
    for limit in remaining(pool, (limit for lease in leases for limit in lease.limits)):
        console.print(f"[yellow]The model is limited[/]: {escape(describe(limit))}", soft_wrap=True)


def _command_name() -> str:
    """How a shell finds `roost`: by its name, or else by the path of this command."""
    command = sys.argv[0]
    return command if Path(command).name == "roost" and shutil.which("roost") is None else "roost"


class Reporter:
    """Shows notices: as lines, or as a progress bar if they have a fraction."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._stage = ""

    def __call__(self, notice: Notice) -> None:
        if notice.fraction is not None and self._console.is_terminal:
            self._show_bar(notice.text, notice.fraction)
        elif notice.text != self._stage:
            self.close()
            self._stage = notice.text
            self._console.print(escape(notice.text), soft_wrap=True)

    def _show_bar(self, stage: str, fraction: float) -> None:
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(stage, total=1.0)
        self._bar.update(self._task, description=stage, completed=fraction)

    def close(self) -> None:
        """Remove the bar."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._bar.stop()
            self._task = None
