"""What the worker cannot run is refused by the small files of a repository, before its weights are downloaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub.errors import XetDownloadError
from safetensors.torch import load_file, save_file

from fake_hub import FakeHub
from hub_folder import write_hub_folder
from roost_worker.convert.errors import ConvertError
from roost_worker.convert.source_config import normalised_config, read_config
from roost_worker.convert.store import ModelStore
from roost_worker.model.config import parse_config


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    write_hub_folder(folder, tmp_path / "other")
    return folder


@pytest.fixture
def hub(repository: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    return FakeHub(repository, monkeypatch)


def _edit(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_bytes()) if path.exists() else {}
    path.write_text(json.dumps(document | changes))


LONGROPE = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [4.0]}
REFUSED = {
    "mixture of experts": (
        {"model_type": "qwen3_moe"},
        "model_type 'qwen3_moe' is not supported; .* llama, ",
    ),
    "GPTQ": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quant_method 'gptq' .* bfloat16"),
    "AWQ": ({"quantization_config": {"quant_method": "awq"}}, "quantization_config with quant_method 'awq'"),
    "bitsandbytes": ({"quantization_config": {"load_in_4bit": True}}, "quant_method 'bitsandbytes'"),
    "compressed tensors": ({"compression_config": {"quant_method": "x"}}, "compression_config with quant_method 'x'"),
    "longrope": ({"rope_scaling": LONGROPE}, "rope scaling 'longrope' .*cached keys.* linear, dynamic, llama3 or yarn"),
    "another scaling": ({"rope_scaling": {"type": "mrope"}}, "rope scaling 'mrope' is not supported"),
    "scaling without a factor": (
        {"rope_scaling": {"type": "linear"}},
        "needs a positive number factor, not None",
    ),
    "rope by layer": ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "layer type .full_attention."),
    "a base that is not a number": ({"rope_theta": "x"}, "rope_theta must be a positive number, not 'x'"),
    "scaling that is not an object": ({"rope_scaling": "yarn"}, "rope_scaling must be an object, not 'yarn'"),
    "a list for a type": ({"model_type": ["llama"]}, "model_type .'llama'. is not supported"),
    "partial rotation": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
    "GELU": ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; only silu"),
    "heads": ({"num_key_value_heads": 3}, "num_attention_heads 8 must be a multiple of num_key_value_heads 3"),
    "an epsilon that is not a number": ({"rms_norm_eps": "1e-6"}, "rms_norm_eps must be a positive number, not '1e-6'"),
    "an epsilon without an end": ({"rms_norm_eps": 10**400}, "rms_norm_eps must be a positive number"),
    "an end that is not an id": (
        {"eos_token_id": "<eos>"},
        "eos_token_id must be a token's id or a list .* not '<eos>'",
    ),
    "ends that are not ids": ({"eos_token_id": [1, None]}, "eos_token_id must be a token's id or a list of ids"),
    "an end below zero": ({"eos_token_id": -1}, "eos_token_id must be a token's id or a list of ids, not -1"),
    "a truth for a number": ({"num_hidden_layers": True}, "num_hidden_layers must be a positive whole number"),
    "a number without an end": (
        {"vocab_size": 10**400},
        "vocab_size must be a positive whole number, not 1000.*; at most 2147483647",
    ),
    "a word for a truth": ({"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false, not 'false'"),
    "another word for a truth": ({"attention_bias": "no"}, "attention_bias must be true or false, not 'no'"),
    "a switch that is a number": (
        {"sliding_window": 64, "use_sliding_window": 2},
        "use_sliding_window must be true or false, not 2",
    ),
    "layers that are words": (
        {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": "all"},
        "max_window_layers must be a whole number, not 'all'",
    ),
    "types of layers that are a number": ({"layer_types": 7}, "layer_types must be a list of names, not 7"),
    "no layers without rotation": (
        {"model_type": "smollm3", "no_rope_layers": ["0"] * 64},
        "no_rope_layers must be a list of .* entries, each 0 or 1",
    ),
    "a context below one": (
        {"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 0.5}},
        "original_max_position_embeddings must be a positive whole number, not 0.5",
    ),
    "no text": ({"model_type": "mistral3"}, "no text_config"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unsupported_config_is_refused_before_the_download(
    hub: FakeHub, repository: Path, tmp_path: Path, name: str
) -> None:
    changes, reason = REFUSED[name]
    _edit(repository / "config.json", **changes)
    with pytest.raises(ConvertError, match=f"hf://org/name: .*{reason}"):
        ModelStore(tmp_path / "cache").prepare("hf://org/name", "float32")
    assert hub.downloaded == [set()]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"eos_token_id": "2"}, "eos_token_id must be a token's id or a list of ids, not '2'"),
        ({"eos_token_id": [2, "3"]}, "eos_token_id must be a token's id or a list of ids"),
        ({"eos_token_id": True}, "eos_token_id must be a token's id or a list of ids, not True"),
        ({"do_sample": "false"}, "do_sample must be true or false, not 'false'"),
        ({"top_k": 10**400}, "top_k 1000.* is out of range"),
    ],
)
def test_an_invalid_generation_config_is_refused_before_the_download(
    hub: FakeHub, repository: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    _edit(repository / "generation_config.json", **changes)
    with pytest.raises(ConvertError, match=rf"hf://org/name: generation_config\.json: {reason}"):
        ModelStore(tmp_path / "cache").prepare("hf://org/name", "float32")
    assert hub.downloaded == [set()]


@pytest.mark.parametrize("scaling", [{"type": "dynamic", "factor": 1e308}, {"type": "yarn", "factor": 1e308}])
def test_a_stretch_beyond_all_contexts_is_only_long(repository: Path, scaling: dict[str, Any]) -> None:
    _edit(repository / "config.json", rope_scaling=scaling)
    assert parse_config(read_config(repository)).max_positions == 2**31 - 1


@pytest.mark.parametrize("document", ["[]", "[1]", "7"])
def test_a_config_that_is_not_an_object_is_refused(
    hub: FakeHub, repository: Path, tmp_path: Path, document: str
) -> None:
    (repository / "config.json").write_text(document)
    with pytest.raises(ConvertError, match=r"config\.json is not a JSON object"):
        ModelStore(tmp_path / "cache").prepare("hf://org/name", "float32")


def test_settings_beside_the_default_rope_are_kept(repository: Path) -> None:
    ministral = {"model_type": "ministral3", "sliding_window": None, "rope_theta": None}
    rope = {"rope_type": "default", "rope_theta": 1e6}
    _edit(repository / "config.json", **ministral, rope_parameters={**rope, "llama_4_scaling_beta": 0.1})
    config = normalised_config(read_config(repository), "float32")
    assert parse_config(config) == parse_config(read_config(repository))
    assert parse_config(config).query_scaling is not None
    _edit(repository / "config.json", rope_parameters=rope)
    assert normalised_config(read_config(repository), "float32")["rope_scaling"] is None


def test_an_unsupported_config_in_a_folder_is_refused_without_reading_the_weights(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roost_worker.convert.store.digest_source", lambda path: pytest.fail("the weights were read"))
    _edit(repository / "config.json", hidden_act="gelu")
    with pytest.raises(ConvertError, match="hidden_act"):
        ModelStore(tmp_path / "cache").prepare(f"file://{repository}", "float32")


def test_weights_that_the_index_lacks_are_refused_before_the_download(
    hub: FakeHub, repository: Path, tmp_path: Path
) -> None:
    names = [name for name in load_file(repository / "model.safetensors") if "layers.1.mlp.up" not in name]
    _edit(repository / "model.safetensors.index.json", weight_map=dict.fromkeys(names, "model.safetensors"))
    with pytest.raises(ConvertError, match=r"missing tensor model\.layers\.1\.mlp\.up_proj"):
        ModelStore(tmp_path / "cache").prepare("hf://org/name", "float32")
    assert hub.downloaded == [set()]


@pytest.mark.parametrize("file", ["../elsewhere.safetensors", 7])
def test_an_index_that_leads_elsewhere_is_refused(hub: FakeHub, repository: Path, tmp_path: Path, file: Any) -> None:
    _edit(repository / "model.safetensors.index.json", weight_map={"lm_head.weight": file})
    with pytest.raises(ConvertError, match="must map tensors to files beside it"):
        ModelStore(tmp_path / "cache").prepare("hf://org/name", "float32")


def _split(repository: Path) -> None:
    """Divide the weights into two shards, as large models are."""
    tensors = load_file(repository / "model.safetensors")
    (repository / "model.safetensors").unlink()
    shards = {f"model-0000{part}-of-00002.safetensors": sorted(tensors)[part - 1 :: 2] for part in (1, 2)}
    for file, names in shards.items():
        save_file({name: tensors[name] for name in names}, repository / file)
    files = {name: file for file, names in shards.items() for name in names}
    _edit(repository / "model.safetensors.index.json", weight_map=files)


def test_only_the_shards_of_the_index_are_downloaded(hub: FakeHub, repository: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "cache")
    whole = store.prepare(f"file://{repository}", "float32")
    _split(repository)
    shards = {path.name for path in repository.glob("*.safetensors")}
    save_file({"tok_embeddings.weight": next(iter(load_file(whole.path / "model.safetensors").values()))},
              repository / "consolidated.safetensors")  # fmt: skip
    (repository / "original").mkdir()
    shutil.copyfile(repository / "consolidated.safetensors", repository / "original" / "model.safetensors")
    assert store.prepare("hf://org/name@main", "float32").revision == whole.revision
    assert hub.downloaded == [set(), shards]
    assert hub.revisions == ["main", "0123abcd"], "weights are of the same commit as the files that were checked"


@pytest.mark.parametrize("name", ["model.safetensors", "weights.safetensors"])
def test_without_an_index_the_folders_own_files_are_downloaded(
    hub: FakeHub, repository: Path, tmp_path: Path, name: str
) -> None:
    (repository / "original").mkdir()
    for other in ("consolidated.safetensors", "consolidated.00.safetensors", "original/model.safetensors"):
        shutil.copyfile(repository / "model.safetensors", repository / other)
    (repository / "model.safetensors").rename(repository / name)
    ModelStore(tmp_path / "cache").prepare("hf://org/name", "float32")
    assert hub.downloaded == [set(), {name}]


def test_a_missing_shard_is_named(repository: Path, tmp_path: Path) -> None:
    _split(repository)
    (repository / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConvertError, match=r"has no model-00002-of-00002\.safetensors, which"):
        ModelStore(tmp_path / "cache").prepare(f"file://{repository}", "float32")


@pytest.mark.parametrize("error", [XetDownloadError("the storage is away"), httpx2.ProxyError("407 Proxy"), OSError()])
def test_a_hub_that_cannot_be_reached_is_named(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of huggingface_hub's libraries fails: their errors have no class in common."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    reason = str(error) or "OSError"
    with pytest.raises(ConvertError, match=f"hf://org/name: the Hugging Face hub .* cannot be reached: {reason}"):
        ModelStore(tmp_path / "cache").prepare("hf://org/name", "float32")
