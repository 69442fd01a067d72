"""`roost model prepare` says where the model is, or why not, and what it would run on."""

import io
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from roost_worker.convert.commands import LineProgress, model
from roost_worker.convert.store import ModelStore


def test_it_prints_revision_and_folder(tmp_path: Path) -> None:
    arguments = ["prepare", "dummy://llama-tiny", "--dtype", "float32", "--cache-dir", str(tmp_path)]
    result = CliRunner().invoke(model, arguments)
    prepared = ModelStore(tmp_path).prepare("dummy://llama-tiny", "float32")
    assert result.exit_code == 0
    assert result.stdout == f"{prepared.revision[:12]} {prepared.path}\n"
    assert result.stderr.startswith("on this machine's CPU the model runs on ")
    assert result.stderr.count("\n") == 1


def test_without_a_terminal_each_stage_is_one_line() -> None:
    console = Console(file=io.StringIO())
    lines = LineProgress(console)
    for stage, fraction in (("writing [w]", 0.0), ("writing [w]", 0.5), ("ready", 1.0)):
        lines(stage, fraction)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "writing [w]\nready\n"


def test_it_says_why_not_and_fails(tmp_path: Path) -> None:
    result = CliRunner().invoke(model, ["prepare", "ftp://[/INST]", "--cache-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: 'ftp://[/INST]' is not a model source")
