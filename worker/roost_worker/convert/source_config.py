"""The `config.json` of a model's source: what describes its decoder, and what of it the worker would refuse."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roost_worker.convert.errors import ConvertError
from roost_worker.convert.json_file import read_object
from roost_worker.model.architectures import ARCHITECTURES, MODEL_TYPES
from roost_worker.model.config import ModelConfigError, parse_config
from roost_worker.model.rope import rope_parameters

WRAPPERS = ("mistral3",)
"""Model types with more than text, whose decoder is described by their `text_config`. Images are left out."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return a folder's `config.json`.

    Raise ConvertError when it or the tokenizer is missing, or it is not a JSON object.
    """
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ConvertError(f"{folder} has no {name}; it must hold config.json, tokenizer.json and *.safetensors")
    return read_object(folder / "config.json")


def normalised_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return `config.json` as the worker reads it: the decoder's, with all keys, rope under its older names.

    Raise ConvertError, naming field and value, for a model that the worker cannot run.
    """
    _refuse_quantised(config)
    source = _decoder_config(config)
    model_type = source.get("model_type")
    try:
        decoder = parse_config(source)
    except ModelConfigError as error:
        raise ConvertError(str(error)) from error
    architecture = ARCHITECTURES[str(model_type)]
    rope = rope_parameters({**architecture.defaults, **source})
    theta = rope.pop("rope_theta")
    by_switch = decoder.sliding_window is not None and architecture.window == "by_switch"
    layers = range(decoder.num_layers)
    return {
        "architectures": [architecture.class_name],
        "attention_bias": decoder.qkv_bias,
        "bos_token_id": source.get("bos_token_id"),
        "dtype": dtype,
        "eos_token_id": source.get("eos_token_id"),
        "head_dim": decoder.head_dim,
        "hidden_act": "silu",
        "hidden_size": decoder.hidden_size,
        "intermediate_size": decoder.intermediate_size,
        "max_position_embeddings": int(source["max_position_embeddings"]),
        "mlp_bias": decoder.mlp_bias,
        "model_type": model_type,
        "num_attention_heads": decoder.num_heads,
        "num_hidden_layers": decoder.num_layers,
        "num_key_value_heads": decoder.num_kv_heads,
        "rms_norm_eps": decoder.norm_eps,
        "rope_theta": theta,
        "rope_scaling": None if rope == {"rope_type": "default"} else rope,
        "sliding_window": decoder.sliding_window,
        **({"use_sliding_window": True} if by_switch else {}),
        **(
            {"no_rope_layers": [int(layer not in decoder.unrotated_layers) for layer in layers]}
            if architecture.unrotated_layers
            else {}
        ),
        "tie_word_embeddings": decoder.tied_embeddings,
        "vocab_size": decoder.vocab_size,
    }


def is_wrapped(config: Mapping[str, Any]) -> bool:
    """Return whether the decoder is a part of a larger model."""
    return config.get("model_type") in WRAPPERS


def _decoder_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    model_type = config.get("model_type")
    if is_wrapped(config):
        text = config.get("text_config")
        if not isinstance(text, Mapping):
            raise ConvertError(f"config.json has no text_config, which describes the decoder of a {model_type} model")
        # transformers ties the head of these models by the outer key.
        return {**text, "tie_word_embeddings": config.get("tie_word_embeddings", True)}
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        known = ", ".join((*MODEL_TYPES, *WRAPPERS))
        raise ConvertError(f"model_type {model_type!r} is not supported; the worker runs {known}")
    return config


def _refuse_quantised(config: Mapping[str, Any]) -> None:
    for key in ("quantization_config", "compression_config"):
        if settings := config.get(key):
            method = settings.get("quant_method", "bitsandbytes") if isinstance(settings, Mapping) else settings
            raise ConvertError(
                f"config.json: {key} with quant_method {method!r} is not supported; use weights in bfloat16, float16 "
                "or float32 (*.safetensors), or a GGUF file, which is dequantised"
            )
