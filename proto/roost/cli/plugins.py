"""Commands that are loaded when they are used: this package's own, and other packages' entry points."""

from collections.abc import Callable
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperGroup
from typer.main import get_command

from roost.cli.report import report

GROUP = "roost.commands"
INSTALL_HINT = "pip install 'roost[local]'"
OWN = {
    entry.name: entry
    for entry in (
        EntryPoint("chat", "roost.cli.chat:chat", GROUP),
        EntryPoint("why", "roost.cli.why:why", GROUP),
        EntryPoint("sessions", "roost.cli.sessions:app", GROUP),
        EntryPoint("keys", "roost.cli.keys:app", GROUP),
    )
}
"""Most of them import the SDK, and gRPC with it: if they were imported first, `roost up` would start everything a fifth
of a second later."""


class PluginGroup(TyperGroup):
    """A command group that has `OWN` and the entry points of `roost.commands` besides the commands that are added to
    it: each is a `typer.Typer` or a command function."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = [*OWN, *super().list_commands(ctx)]
        return [*(name for name in _entries() if name not in own), *own]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in OWN:
            return _as_command(cmd_name, OWN[cmd_name].load())
        own = super().get_command(ctx, cmd_name)
        entry = _entries().get(cmd_name)
        return own if own is not None or entry is None else _load(entry)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Suggests a command for a misspelt one. `TyperGroup` knows only those that are loaded."""
        names = self.list_commands(ctx)
        if args[0] not in names and (near := get_close_matches(args[0], names)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {', '.join(map(repr, near))}?")
        return super().resolve_command(ctx, args)


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _load(entry: EntryPoint) -> Any:
    try:
        return _as_command(entry.name, entry.load())
    except ImportError as error:
        return _missing(entry, error)


def _as_command(name: str, loaded: typer.Typer | Callable[..., Any], **settings: Any) -> Any:
    if not isinstance(loaded, typer.Typer):
        function, loaded = loaded, typer.Typer(add_completion=False)
        loaded.command(name, **settings)(function)
    loaded.pretty_exceptions_enable = False
    command = get_command(loaded)
    command.name = name
    return command


def _missing(entry: EntryPoint, error: ImportError) -> Any:
    """Returns a command that says what to install."""

    def missing() -> None:
        report(f"`roost {entry.name}` is not installed: {error}", INSTALL_HINT)
        raise typer.Exit(1)

    missing.__doc__ = escape(f"Not installed; {INSTALL_HINT}")
    anything = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    return _as_command(entry.name, missing, context_settings=anything)
