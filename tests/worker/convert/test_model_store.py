"""Folders are converted once, whole or not at all, and damage is named."""

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from hub_folder import write_hub_folder
from roost_worker.convert.dummy import SPECS, dummy_config
from roost_worker.convert.errors import ConvertError
from roost_worker.convert.layout import WEIGHTS, PreparedModel
from roost_worker.convert.source_config import normalised_config
from roost_worker.convert.store import ModelStore
from roost_worker.model.config import parse_config, read_config


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "cache")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder as the Hugging Face hub would give it, made from a dummy."""
    folder = tmp_path / "source"
    write_hub_folder(folder, tmp_path / "other")
    return folder


def _leftovers(store: ModelStore) -> list[Path]:
    return [path for path in store.models.glob("*") if path.name not in ("index", "locks")]


def test_a_folder_is_converted_and_means_the_same(store: ModelStore, source: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    stages: list[str] = []
    model = store.prepare(f"file://{source}", "bfloat16", lambda stage, fraction: stages.append(stage))
    original = load_file(source / "model.safetensors")
    converted = load_file(model.path / "model.safetensors")
    assert {name: tensor.bfloat16().tolist() for name, tensor in original.items()} == {
        name: tensor.tolist() for name, tensor in converted.items()
    }
    template = json.loads((model.path / "template.json").read_bytes())
    assert (template["format"], template["eos_token_ids"]) == ("chatml", [258, 256])
    assert stages[-1] == "ready"
    assert "writing weights" in stages


WINDOW = {"sliding_window": 1024, "use_sliding_window": True}


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"model_type": "qwen2", **WINDOW}, 1024),
        ({"model_type": "qwen2", **WINDOW, "use_sliding_window": False}, None),
        ({"model_type": "qwen3", "sliding_window": 1024}, None),
        ({"model_type": "qwen3", **WINDOW, "layer_types": ["full_attention"]}, None),
        ({"model_type": "mistral", "sliding_window": 1024}, 1024),
        ({"model_type": "mistral", "sliding_window": None}, None),
    ],
)
def test_a_sliding_window_is_still_one_to_the_worker(changes: dict[str, Any], window: int | None) -> None:
    raw = {**dummy_config(SPECS["llama-tiny"], "float32"), **changes}
    assert parse_config(normalised_config(raw, "float32")).sliding_window == window


def test_a_head_that_differs_from_a_tied_embedding_is_kept(store: ModelStore, source: Path) -> None:
    """As transformers 5 does."""
    from safetensors.torch import load_file

    _edit_config(source, tie_word_embeddings=True)
    path = store.prepare(f"file://{source}", "float32").path
    head = load_file(source / "model.safetensors")["lm_head.weight"]
    assert load_file(path / "model.safetensors")["lm_head.weight"].equal(head)
    assert not read_config(path).tied_embeddings


def test_a_head_that_is_the_tied_embedding_is_stored_once(store: ModelStore, source: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(source / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, source / "model.safetensors")
    _edit_config(source, tie_word_embeddings=True)
    path = store.prepare(f"file://{source}", "float32").path
    assert "lm_head.weight" not in load_file(path / "model.safetensors")
    assert read_config(path).tied_embeddings


def test_a_tied_embedding_may_be_stored_as_the_head_alone(store: ModelStore, source: Path) -> None:
    """As accelerate and `safetensors.torch.save_model` store it, and transformers 5 reads it."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(source / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, source / "model.safetensors")
    _edit_config(source, tie_word_embeddings=True)
    usual = store.prepare(f"file://{source}", "float32")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, source / "model.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    assert store.prepare(f"file://{source}", "float32").revision == usual.revision


@pytest.mark.parametrize("decoder", ["language_model.model.", "model.language_model."])
def test_the_decoder_of_a_wrapping_model_is_converted(store: ModelStore, source: Path, decoder: str) -> None:
    """Mistral Small 3.1 and later: config and tensors of the text model are inside a larger one's."""
    from safetensors.torch import load_file, save_file

    plain = store.prepare(f"file://{source}", "float32")
    text = json.loads((source / "config.json").read_bytes())
    (source / "config.json").write_text(
        json.dumps({"model_type": "mistral3", "text_config": text, "vision_config": {}})
    )
    tensors = {name.replace("model.", decoder, 1): tensor for name, tensor in load_file(plain.path / WEIGHTS).items()}
    if decoder == "language_model.model.":
        tensors["language_model.lm_head.weight"] = tensors.pop("lm_head.weight")
    vision = {"vision_tower.ln_pre.weight": tensors[f"{decoder}norm.weight"].clone()}
    save_file({**tensors, **vision}, source / WEIGHTS)
    assert store.prepare(f"file://{source}", "float32").revision == plain.revision


def test_a_second_prepare_starts_no_converter(store: ModelStore, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.prepare(f"file://{source}", "float32")

    def forbidden(*_: object) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr("roost_worker.convert.store.run_converter", forbidden)
    assert store.prepare(f"file://{source}", "float32") == first
    again = source.rename(source.with_name("moved"))
    assert store.prepare(f"file://{again}", "float32").revision == first.revision


def test_a_model_is_at_hand_when_nothing_is_to_be_converted(store: ModelStore, source: Path) -> None:
    url = f"file://{source}"
    assert store.is_at_hand("dummy://llama-tiny", "float32")
    assert not store.is_at_hand(url, "float32")
    store.prepare(url, "float32")
    assert store.is_at_hand(url, "float32")
    assert not store.is_at_hand(url, "bfloat16")
    with pytest.raises(ConvertError, match="dtype"):
        store.is_at_hand(url, "float8")


def test_changed_weights_are_another_revision(store: ModelStore, source: Path) -> None:
    first = store.prepare(f"file://{source}", "float32")
    weights = source / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(1, 1))
    assert store.prepare(f"file://{source}", "float32").revision != first.revision


def test_a_changed_template_is_another_revision(store: ModelStore, source: Path) -> None:
    first = store.prepare(f"file://{source}", "float32")
    template = source / "chat_template.jinja"
    template.write_text(template.read_text() + "{# changed #}")
    assert store.prepare(f"file://{source}", "float32").revision != first.revision


def test_a_changed_template_for_tools_is_another_revision(store: ModelStore, source: Path) -> None:
    """It is in a folder of its own, so that nothing else of the source changes with it."""
    template = source / "additional_chat_templates" / "tool_use.jinja"
    template.parent.mkdir()
    template.write_text((source / "chat_template.jinja").read_text())
    first = store.prepare(f"file://{source}", "float32")
    template.write_text(template.read_text() + "{# changed #}")
    assert store.prepare(f"file://{source}", "float32").revision != first.revision


def _prepare(cache: str, source: str, results: "multiprocessing.Queue[tuple[PreparedModel, list[str]]]") -> None:
    stages: list[str] = []
    model = ModelStore(Path(cache)).prepare(source, "float32", lambda stage, _: stages.append(stage))
    results.put((model, stages))


def test_processes_that_prepare_at_once_convert_once_and_agree(store: ModelStore, source: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[PreparedModel, list[str]]] = context.Queue()
    arguments = (str(store.cache_dir), f"file://{source}", results)
    processes = [context.Process(target=_prepare, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert answers[0][0] == answers[1][0]
    assert sum("reading weights" in stages for _, stages in answers) == 1
    assert _leftovers(store) == [answers[0][0].path]


def _drop_tensor(source: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(source / "model.safetensors")
    del tensors[name]
    save_file(tensors, source / "model.safetensors")


def _edit_config(source: Path, **changes: object) -> None:
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


UP = "model.layers.1.mlp.up_proj.weight"
DAMAGES = {
    "missing tensor model.layers.1.mlp.up_proj.weight": lambda at: _drop_tensor(
        at, "model.layers.1.mlp.up_proj.weight"
    ),
    "truncated or not a safetensors file": lambda at: os.truncate(at / "model.safetensors", 5000),
    "has no *.safetensors": lambda at: (at / "model.safetensors").unlink(),
    "has no config.json": lambda at: (at / "config.json").unlink(),
    "has no tokenizer.json": lambda at: (at / "tokenizer.json").unlink(),
    "is not a JSON object": lambda at: (at / "config.json").write_text("{"),
    "model_type 'mamba' is not supported": lambda at: _edit_config(at, model_type="mamba"),
    "has shape (264, 64), but config.json says (999, 64)": lambda at: _edit_config(at, vocab_size=999),
    "hidden_size must be a positive whole number, not None": lambda at: (at / "config.json").write_text(
        '{"model_type": "llama", "num_attention_heads": 1}'
    ),
    "tokenizer.json cannot be read as a tokenizer": lambda at: (at / "tokenizer.json").write_text("[]"),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_damage_is_named_and_nothing_stays(store: ModelStore, source: Path, reason: str) -> None:
    DAMAGES[reason](source)
    with pytest.raises(ConvertError) as caught:
        store.prepare(f"file://{source}", "float32")
    assert reason in str(caught.value)
    assert str(source) in str(caught.value)
    assert _leftovers(store) == []


def test_what_a_killed_conversion_left_goes_with_a_later_one(store: ModelStore) -> None:
    abandoned, under_way = store.models / ".making-abandoned", store.models / ".making-under-way"
    for folder in (abandoned, under_way):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
    os.utime(abandoned, (1, 1))
    store.prepare("dummy://llama-tiny", "float32")
    assert not abandoned.exists()
    assert under_way.exists()


def test_a_repaired_source_is_converted_after_a_failure(store: ModelStore, source: Path) -> None:
    config = (source / "config.json").read_text()
    (source / "config.json").unlink()
    with pytest.raises(ConvertError):
        store.prepare(f"file://{source}", "float32")
    (source / "config.json").write_text(config)
    assert store.prepare(f"file://{source}", "float32").path.is_dir()


def test_a_damaged_entry_of_the_store_is_made_again(store: ModelStore, source: Path) -> None:
    model = store.prepare(f"file://{source}", "float32")
    (model.path / "tokenizer.json").unlink()
    assert store.prepare(f"file://{source}", "float32") == model
    assert (model.path / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("source_text", "dtype", "reason"),
    [
        ("file:///nowhere/model.gguf", "float32", "/nowhere/model.gguf does not exist"),
        ("dummy://llama-tiny", "int4", "dtype 'int4' is unknown; use one of bfloat16"),
        ("file:///nowhere", "float64", "float64 is for dummy:// models only"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(store: ModelStore, source_text: str, dtype: str, reason: str) -> None:
    with pytest.raises(ConvertError, match=reason):
        store.prepare(source_text, dtype)


def test_a_file_that_is_no_gguf_is_refused(store: ModelStore, tmp_path: Path) -> None:
    wrong = tmp_path / "model.gguf"
    wrong.write_bytes(b"PK\x03\x04 a zip file")
    with pytest.raises(ConvertError, match=r"model\.gguf is not a GGUF file"):
        store.prepare(f"file://{wrong}", "float32")


@pytest.mark.parametrize("method", ["prepare", "find"])
def test_a_store_that_cannot_be_written_is_named(tmp_path: Path, method: str) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConvertError, match=r"^dummy://llama-tiny: .*/cache \(ROOST_CACHE\) can be written"):
        getattr(ModelStore(tmp_path / "cache"), method)("dummy://llama-tiny", "float32")


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_CACHE", str(tmp_path / "elsewhere"))
    model = ModelStore().prepare("dummy://llama-tiny", "float32")
    assert model.path.parent == tmp_path / "elsewhere" / "models"
