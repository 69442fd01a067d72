"""What of a HF config is understood, and what is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from roost_worker.model.config import DecoderConfig, ModelConfigError, parse_config, read_config

SMOLLM2 = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_theta": 100000.0,
}


def _parse(**changes: Any) -> DecoderConfig:
    return parse_config({**SMOLLM2, **changes})


def test_smollm2_is_read() -> None:
    config = _parse()
    assert (config.head_dim, config.rope_theta, config.tied_embeddings, config.qkv_bias) == (64, 1e5, True, False)


def test_rope_is_read_from_the_keys_of_transformers_4_and_5() -> None:
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    older = _parse(rope_theta=5e5, rope_scaling={"rope_type": "llama3", **llama3})
    newer = _parse(rope_theta=None, rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **llama3})
    assert older == newer
    assert older.rope_scaling is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "mixtral"}, "use one of llama, ministral, ministral3, mistral, qwen2, qwen3, smollm3"),
        ({"hidden_act": "gelu"}, "only silu"),
        ({"num_hidden_layers": None}, "num_hidden_layers must be a positive whole number"),
        ({"vocab_size": "many"}, "vocab_size must be a positive whole number"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4}}, "rope scaling 'longrope' is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 0}}, "yarn needs a positive number factor, not 0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": True}}, "yarn needs a positive number factor, not True"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers must be a list of 30 entries"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3 needs .* low_freq_factor"),
        ({"num_key_value_heads": 2}, "must be a multiple of num_key_value_heads"),
    ],
)
def test_what_the_decoder_cannot_do_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelConfigError, match=reason):
        _parse(**changes)


@pytest.mark.parametrize(
    ("scaling", "positions"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 8192),
        ({"rope_type": "dynamic", "factor": 4.0}, 32768),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 8192),
        ({"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 1024}, 8192),
    ],
)
def test_the_longest_context_is_what_the_scaling_is_for(scaling: dict[str, Any], positions: int) -> None:
    assert _parse(rope_scaling=scaling).max_positions == positions


def test_a_bias_is_where_the_architecture_has_one() -> None:
    biased = {kind: _parse(model_type=kind, attention_bias=True) for kind in ("llama", "mistral", "qwen2", "qwen3")}
    assert {kind: (config.qkv_bias, config.output_bias) for kind, config in biased.items()} == {
        "llama": (True, True),
        "mistral": (False, False),
        "qwen2": (True, False),
        "qwen3": (True, True),
    }


def test_every_fourth_layer_of_smollm3_is_not_rotated() -> None:
    assert _parse(model_type="smollm3", num_hidden_layers=9).unrotated_layers == {3, 7}
    assert _parse(model_type="smollm3", num_hidden_layers=3, no_rope_layers=[0, 1, 0]).unrotated_layers == {0, 2}
    assert _parse().unrotated_layers == frozenset()


def test_smollm2_splits_into_1_and_3() -> None:
    assert _parse().allowed_tensor_parallel() == [1, 3]


def test_a_token_of_an_8b_model_costs_as_much_as_attending_to_26_624_others() -> None:
    config = _parse(num_attention_heads=32, num_key_value_heads=8, hidden_size=4096, intermediate_size=14336)
    assert 1 / config.pair_cost == pytest.approx(26_624)


def test_kv_heads_may_divide_the_ranks() -> None:
    config = _parse(num_attention_heads=32, num_key_value_heads=8, hidden_size=4096, intermediate_size=14336)
    assert config.allowed_tensor_parallel() == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"model_type": "mistral", "sliding_window": 1024}, 1024),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": False}, None),
        ({"model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": True}, 1024),
        ({"model_type": "qwen3", "sliding_window": 64, "use_sliding_window": True, "layer_types": ["full"]}, None),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True, "max_window_layers": 30}, None),
        ({"model_type": "ministral", "sliding_window": 64, "layer_types": ["full_attention"]}, None),
        ({"model_type": "ministral", "sliding_window": 64, "layer_types": ["sliding_attention"]}, 64),
        ({"model_type": "mistral"}, 4096),
        ({"model_type": "llama", "sliding_window": 64}, None),
    ],
)
def test_sliding_windows_are_found(changes: dict[str, Any], window: int | None) -> None:
    assert _parse(**changes).sliding_window == window


def test_a_context_beyond_the_sliding_window_is_refused() -> None:
    config = _parse(model_type="mistral", sliding_window=1024)
    config.check_context(1024)
    with pytest.raises(ModelConfigError, match="lower contextTokens to 1024 or less"):
        config.check_context(1025)


def test_a_context_beyond_the_models_positions_is_refused() -> None:
    with pytest.raises(ModelConfigError, match="more than the model's 8192 positions"):
        _parse().check_context(8193)


def test_a_folder_without_a_config_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError, match="roost model prepare"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["{", json.dumps([1])])
def test_a_broken_config_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelConfigError, match=r"config.json .*prepare the model again"):
        read_config(tmp_path)
