"""The command tree: this package's commands, and those that other packages add."""

import sys
from typing import Annotated

import typer

import roost
from roost.cli import chat, keys, plugins, sessions, why
from roost.cli.output import report
from roost.cli.stdout import stdout_failures_reported

app = typer.Typer(
    cls=plugins.PluginGroup,
    help="Roost: agent inference that remembers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("chat")(chat.chat)
app.command("why")(why.why)
app.add_typer(sessions.app, name="sessions")
app.add_typer(keys.app, name="keys")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"roost {roost.__version__}")
        raise typer.Exit


@app.callback()
def _roost(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def version(
    short: Annotated[bool, typer.Option("--short", help="Print the number only.")] = False,
) -> None:
    """Print the version."""
    typer.echo(roost.__version__ if short else f"roost {roost.__version__}")


def run() -> None:
    """Runs the command line. When a command's libraries are missing, it says what to install."""
    try:
        with stdout_failures_reported():
            app()
    except ModuleNotFoundError as error:
        report(f"this command needs `{error.name}`, which is not installed", plugins.INSTALL_HINT)
        sys.exit(1)
