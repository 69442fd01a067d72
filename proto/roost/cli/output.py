"""What the commands of the SDK print: its errors with hints, tables, JSON."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from roost import errors
from roost.cli.report import report


class OutputFormat(StrEnum):
    """Choices of `-o`."""

    TABLE = "table"
    JSON = "json"


_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (errors.AuthenticationError, "give the key with `--api-key` or ROOST_API_KEY"),
    (errors.PoolNotAllowedError, "use a pool that this API key may use, with `--pool`"),
    (errors.PoolNotFoundError, "give the pool as namespace/name with `--pool`"),
    (errors.RoleNotFoundError, "give one of the pool's roles with `--role`"),
    (errors.SessionNotFoundError, "`roost sessions list` shows your sessions"),
    (errors.SessionClosedError, "`roost sessions log` still shows its steps"),
    (errors.AnotherStepRunningError, "wait until the running step has ended"),
    (errors.HeadMismatchError, "another client took a step; `roost sessions log` shows it"),
    (errors.SessionRolledBackError, "`roost sessions log` shows what is left of the session"),
    (errors.OverloadedError, "try again in a moment"),
    (errors.WorkerUnavailableError, "workers may still be loading their model; try again in a moment"),
    (errors.StoreUnavailableError, "check that Redis is running"),
    (errors.UnavailableError, "start a gateway with `roost up`, or give `--target` or ROOST_TARGET"),
)


_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def visible(text: str) -> str:
    """Replaces control characters except line breaks and tabs: text from a model or another user must not control the
    terminal."""
    return text.translate(_CONTROLS)


def write(text: str) -> None:
    """Writes text to stdout at once: unchanged, or `visible` on a terminal."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def report_error(error: Exception) -> None:
    """Prints an error of the SDK, with a hint on what to do about it."""
    hint = next((text for kind, text in _HINTS if isinstance(error, kind)), "")
    report(str(error), hint)


@contextmanager
def expected_errors() -> Iterator[None]:
    """Ends the command with exit code 1 and without a traceback when the SDK raises."""
    try:
        yield
    except (errors.RoostError, ValueError) as error:
        report_error(error)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def as_json(value: Any) -> Any:
    """A value of the SDK as JSON types: hashes in hexadecimal, times in ISO 8601."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, datetime) else value


def print_json(value: Any) -> None:
    typer.echo(json.dumps(as_json(value), indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, folded: str = "") -> None:
    """Prints a table without borders, as wide as it needs to be, so that each row is one line. On a terminal the column
    `folded` is wrapped."""
    console = Console(highlight=False, emoji=False)
    folded = folded if console.is_terminal else ""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column != folded)
    for row in rows:
        table.add_row(*(escape(visible(str(cell))) for cell in row))
    if not folded:
        console.width = _UNBOUNDED
    with console.capture() as printed:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))


_UNBOUNDED = 1_000_000
"""Width of a terminal in which nothing is wrapped."""


def moment(time: datetime | None) -> str:
    """A time to the second, in UTC."""
    return "" if time is None else time.isoformat(sep=" ", timespec="seconds")


def age(moment: datetime | None) -> str:
    """Time since `moment` in its largest unit, such as `5m`."""
    if moment is None:
        return ""
    seconds = int((datetime.now(UTC) - moment).total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"
