"""Commands that other packages add to `roost`, and what is said of those that are not there."""

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from roost.cli import plugins
from roost.cli.app import app


def greet(name: str) -> None:
    """Greet someone."""
    typer.echo(f"hello {name}")


sub_app = typer.Typer(help="Things.")


@sub_app.command()
def one() -> None:
    """The one thing."""
    typer.echo("one done")


@sub_app.command()
def two() -> None:
    """The other."""


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins of this module, and one whose libraries are missing."""
    home = ModuleType("roost_test_plugins")
    home.__dict__.update(greet=greet, things=sub_app)
    monkeypatch.setitem(sys.modules, "roost_test_plugins", home)
    entries = [
        EntryPoint("greet", "roost_test_plugins:greet", plugins.GROUP),
        EntryPoint("things", "roost_test_plugins:things", plugins.GROUP),
        EntryPoint("absent", "no_such_library.commands:absent", plugins.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries)


@pytest.mark.usefixtures("entry_points")
def test_other_packages_add_functions_and_groups() -> None:
    assert CliRunner().invoke(app, ["greet", "Ada"]).stdout == "hello Ada\n"
    assert CliRunner().invoke(app, ["things", "one"]).stdout == "one done\n"
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert "Greet someone." in shown
    assert "Things." in shown
    assert "chat" in shown


@pytest.mark.usefixtures("entry_points")
@pytest.mark.parametrize(("typo", "meant"), [("sesions", "sessions"), ("kyes", "keys"), ("gret", "greet")])
def test_a_misspelt_command_is_answered_with_the_right_one(typo: str, meant: str) -> None:
    result = CliRunner().invoke(app, [typo, "list"], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert f"Did you mean '{meant}'" in result.output


@pytest.mark.usefixtures("entry_points")
def test_a_plugin_without_its_libraries_says_what_to_install() -> None:
    assert "pip install 'roost[local]'" in CliRunner().invoke(app, ["--help"]).stdout
    result = CliRunner().invoke(app, ["absent", "--any", "thing", "--help"])
    assert result.exit_code == 1
    assert "no_such_library" in result.stderr
    assert "hint: pip install 'roost[local]'" in result.stderr
