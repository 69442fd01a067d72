"""The command tree. Commands are in modules of their own, which are loaded when they are used (`plugins`)."""

import sys
from typing import Annotated

import typer

import roost
from roost.cli import plugins
from roost.cli.report import report
from roost.cli.stdout import stdout_failures_reported

app = typer.Typer(
    cls=plugins.PluginGroup,
    help="Roost: agent inference that remembers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
