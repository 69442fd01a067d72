"""A model's own sampling is read, checked, kept with the model and shown."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hub_folder import write_hub_folder
from roost_worker.convert.commands import model
from roost_worker.convert.errors import ConvertError
from roost_worker.convert.sampling_defaults import gguf_sampling_defaults, sampling_defaults
from roost_worker.convert.store import ModelStore
from roost_worker.render.renderer import Renderer

QWEN = {
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.05,
    "eos_token_id": [1],
}


@pytest.mark.parametrize(
    ("generation", "defaults"),
    [
        ({}, {}),
        (QWEN, {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}),
        ({"temperature": 0.15}, {"temperature": 0.15}),
        ({"do_sample": True, "min_p": 0.05}, {"temperature": 1.0, "min_p": 0.05}),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.0, "top_p": 0.9}),
        ({"top_k": -1, "top_p": None}, {"top_k": 0}),
    ],
)
def test_defaults_are_those_of_the_generation_config(generation: dict[str, Any], defaults: dict[str, float]) -> None:
    assert sampling_defaults(generation) == defaults


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", "0.6"),
        ("temperature", float("inf")),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", 2.5),
        ("top_k", True),
        ("top_k", 1 << 32),
        ("min_p", 2),
        ("repetition_penalty", 0.0),
    ],
)
def test_a_default_that_no_step_may_have_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConvertError, match=f"{field} .*{value}.* is out of range"):
        sampling_defaults({field: value})


def test_a_gguf_file_has_its_own_names() -> None:
    keys = {"general.sampling.temp": 0.6, "general.sampling.top_k": 40, "general.sampling.penalty_repeat": 1.1}
    assert gguf_sampling_defaults(keys) == {"temperature": 0.6, "top_k": 40, "repetition_penalty": 1.1}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    write_hub_folder(folder, tmp_path / "other")
    (folder / "generation_config.json").write_text(json.dumps({**QWEN, "eos_token_id": [258, 256]}))
    return folder


def test_defaults_are_kept_with_the_model_in_every_dtype(source: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "cache")
    for dtype in ("float32", "bfloat16"):
        renderer = Renderer.from_dir(store.prepare(f"file://{source}", dtype).path)
        assert renderer.sampling_defaults == {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}


def test_other_defaults_are_another_revision(source: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "cache")
    first = store.prepare(f"file://{source}", "float32")
    (source / "generation_config.json").write_text(json.dumps({**QWEN, "temperature": 0.9}))
    assert store.prepare(f"file://{source}", "float32").revision != first.revision


def test_a_model_of_the_store_is_shown_with_its_defaults(source: Path, tmp_path: Path) -> None:
    arguments = ["show", f"file://{source}", "--dtype", "float32", "--cache-dir", str(tmp_path / "cache")]
    absent = CliRunner().invoke(model, arguments)
    assert (absent.exit_code, absent.stdout) == (1, "")
    assert "run `roost model prepare` first" in absent.stderr
    prepared = ModelStore(tmp_path / "cache").prepare(f"file://{source}", "float32")
    shown = CliRunner().invoke(model, arguments).stdout.splitlines()
    assert f"revision     {prepared.revision}" in shown
    assert "context      8192 tokens at most" in shown
    assert "sampling     temperature 0.7, top_p 0.8, top_k 20, repetition_penalty 1.05" in shown


def test_a_model_without_defaults_is_greedy(tmp_path: Path) -> None:
    shown = CliRunner().invoke(model, ["show", "dummy://llama-tiny", "--cache-dir", str(tmp_path)]).stdout
    assert "sampling     none: temperature 0" in shown


def test_a_model_without_defaults_has_the_template_json_of_earlier_versions(tmp_path: Path) -> None:
    """Its revision stays, so that sessions are not migrated by an upgrade."""
    path = ModelStore(tmp_path).prepare("dummy://llama-tiny", "float32").path
    assert "sampling" not in json.loads((path / "template.json").read_bytes())
    assert Renderer.from_dir(path).sampling_defaults == {}
