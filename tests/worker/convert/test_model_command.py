"""`roost model prepare` says where the model is, or why not."""

from pathlib import Path

from typer.testing import CliRunner

from roost_worker.convert.commands import model
from roost_worker.convert.store import ModelStore


def test_it_prints_revision_and_folder(tmp_path: Path) -> None:
    arguments = ["prepare", "dummy://llama-tiny", "--dtype", "float32", "--cache-dir", str(tmp_path)]
    result = CliRunner().invoke(model, arguments)
    prepared = ModelStore(tmp_path).prepare("dummy://llama-tiny", "float32")
    assert result.exit_code == 0
    assert result.stdout == f"{prepared.revision[:12]} {prepared.path}\n"


def test_it_says_why_not_and_fails(tmp_path: Path) -> None:
    result = CliRunner().invoke(model, ["prepare", "ftp://[/INST]", "--cache-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "error: 'ftp://[/INST]' is no model source" in " ".join(result.stderr.split())
