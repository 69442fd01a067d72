"""Shapes and variants of the Llama family, read from a HF-style `config.json`. Pure: no torch.

One decoder covers Llama (and SmolLM2), Qwen2, Qwen3 and Mistral; they differ in biases, in the norm of queries and
keys, in the rotary frequencies and in the attention window. A model that the decoder cannot run is refused here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` that the worker can run."""


class ModelConfigError(ValueError):
    """The model, or its combination with the configuration, is not supported. The message says what is."""


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3's stretch of low rotary frequencies (Llama 3.1, `rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Everything the decoder needs to know about a model."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: bool = False
    sliding_window: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ModelConfigError(
                f"num_attention_heads {self.num_heads} must be a multiple of num_key_value_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ModelConfigError(f"head_dim {self.head_dim} must be even for rotary embeddings")

    def allowed_tensor_parallel(self) -> list[int]:
        """Return every `tensorParallel` that this model supports, ascending."""
        return [ranks for ranks in range(1, self.num_heads + 1) if self._splits_into(ranks)]

    def _splits_into(self, ranks: int) -> bool:
        heads_fit = self.num_heads % ranks == 0 and self.intermediate_size % ranks == 0
        return heads_fit and (self.num_kv_heads % ranks == 0 or ranks % self.num_kv_heads == 0)

    def check_tensor_parallel(self, ranks: int) -> None:
        """Raise ModelConfigError, naming the allowed values, if the model cannot be split over `ranks`."""
        if not self._splits_into(ranks):
            allowed = ", ".join(map(str, self.allowed_tensor_parallel()))
            raise ModelConfigError(
                f"tensorParallel: {ranks} does not divide a model of {self.num_heads} query heads, {self.num_kv_heads} "
                f"KV heads and intermediate size {self.intermediate_size}; use one of {allowed}"
            )

    def check_context(self, context_tokens: int) -> None:
        """Raise ModelConfigError if a context of `context_tokens` is more than the model can attend to."""
        if context_tokens > self.max_positions:
            raise ModelConfigError(
                f"contextTokens: {context_tokens} is more than the model's {self.max_positions} positions; lower it"
            )
        if self.sliding_window is not None and context_tokens > self.sliding_window:
            raise ModelConfigError(
                f"contextTokens: {context_tokens} is more than the model's sliding window of {self.sliding_window} "
                f"tokens, which is not supported; lower contextTokens to {self.sliding_window} or less"
            )


def read_config(model_dir: Path) -> DecoderConfig:
    """Read `config.json` of a model folder. Raise ModelConfigError if it is missing, invalid or unsupported."""
    path = model_dir / "config.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelConfigError(f"{path} is missing; prepare the model with `roost model prepare`") from None
    except ValueError as error:
        raise ModelConfigError(f"{path} is not valid JSON: {error}; prepare the model again") from error
    if not isinstance(document, dict):
        raise ModelConfigError(f"{path} must hold a JSON object; prepare the model again")
    return parse_config(document)


def parse_config(document: Mapping[str, Any]) -> DecoderConfig:
    """Turn a HF config document into a DecoderConfig. Raise ModelConfigError naming the invalid key."""
    model_type = document.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ModelConfigError(f"model_type {model_type!r} is not supported; use one of {', '.join(MODEL_TYPES)}")
    if document.get("hidden_act", "silu") != "silu":
        raise ModelConfigError(f"hidden_act {document['hidden_act']!r} is not supported; only silu is")
    heads = _integer(document, "num_attention_heads")
    hidden = _integer(document, "hidden_size")
    attention_bias = bool(document.get("attention_bias", False))
    return DecoderConfig(
        vocab_size=_integer(document, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_integer(document, "intermediate_size"),
        num_layers=_integer(document, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=_integer(document, "num_key_value_heads", heads),
        head_dim=_integer(document, "head_dim", hidden // heads),
        max_positions=_integer(document, "max_position_embeddings"),
        norm_eps=float(document.get("rms_norm_eps", 1e-6)),
        rope_theta=_rope_theta(document),
        rope_scaling=_rope_scaling(document),
        tied_embeddings=bool(document.get("tie_word_embeddings", False)),
        qkv_bias=attention_bias or model_type == "qwen2",
        output_bias=attention_bias and model_type != "qwen2",
        mlp_bias=bool(document.get("mlp_bias", False)),
        query_key_norm=model_type == "qwen3",
        sliding_window=_sliding_window(document, model_type),
        eos_token_ids=_eos_token_ids(document),
    )


def _integer(document: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = document.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or value < 1:
        raise ModelConfigError(f"config.json: {key} must be a positive whole number, not {value!r}")
    return value


def _rope_document(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the rope settings: transformers 5 writes `rope_parameters`, earlier versions wrote `rope_scaling`."""
    return document.get("rope_parameters") or document.get("rope_scaling") or {}


def _rope_theta(document: Mapping[str, Any]) -> float:
    theta = document.get("rope_theta")
    if theta is None:
        theta = _rope_document(document).get("rope_theta", 10000.0)
    return float(theta)


def _rope_scaling(document: Mapping[str, Any]) -> RopeScaling | None:
    scaling = _rope_document(document)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ModelConfigError(f"rope scaling {kind!r} is not supported; use a model with default or llama3 scaling")
    try:
        return RopeScaling(
            factor=float(scaling["factor"]),
            low_freq_factor=float(scaling["low_freq_factor"]),
            high_freq_factor=float(scaling["high_freq_factor"]),
            original_positions=int(scaling["original_max_position_embeddings"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelConfigError(
            f"config.json: rope_scaling of type llama3 needs the numbers factor, low_freq_factor, high_freq_factor and "
            f"original_max_position_embeddings ({type(error).__name__}: {error}); take them from the model's source"
        ) from error


def _sliding_window(document: Mapping[str, Any], model_type: str) -> int | None:
    window = document.get("sliding_window")
    if window is None or (model_type.startswith("qwen") and not document.get("use_sliding_window", False)):
        return None
    layers = document.get("layer_types")
    if layers is not None and "sliding_attention" not in layers:
        return None
    return int(window)


def _eos_token_ids(document: Mapping[str, Any]) -> tuple[int, ...]:
    eos = document.get("eos_token_id")
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list) else (int(eos),)
