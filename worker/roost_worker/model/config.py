"""Shapes and variants of the Llama family, read from a HF-style `config.json`. Pure: no torch.

One decoder covers Llama (and SmolLM2), SmolLM3, Qwen2, Qwen3, Mistral and Ministral; `architectures.py` says how they
differ, `rope.py` how positions are rotated. A model that the decoder cannot run is refused here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from roost_worker.model.architectures import ARCHITECTURES, MODEL_TYPES, Architecture
from roost_worker.model.rope import (
    ModelConfigError,
    QueryScaling,
    RopeScaling,
    is_positive,
    parse_query_scaling,
    parse_scaling,
    rope_parameters,
    served_positions,
)

__all__ = ["DecoderConfig", "ModelConfigError", "parse_config", "read_config", "token_ids"]


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
    """Longest context, stretched by the rotary scaling where that is what it is for."""
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    unrotated_layers: frozenset[int] = frozenset()
    query_scaling: QueryScaling | None = None
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

    @property
    def pair_cost(self) -> float:
        """Multiplications that a token takes for each token it attends to, as a share of those that it takes without
        any."""
        query_size, kv_size = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        projections = 2 * self.hidden_size * (query_size + kv_size)
        return 2 * query_size / (projections + 3 * self.hidden_size * self.intermediate_size)

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
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise ModelConfigError(f"model_type {model_type!r} is not supported; use one of {', '.join(MODEL_TYPES)}")
    architecture = ARCHITECTURES[model_type]
    document = {**architecture.defaults, **document}
    if document.get("hidden_act", "silu") not in _SILU:
        raise ModelConfigError(f"hidden_act {document['hidden_act']!r} is not supported; only silu is")
    heads = _integer(document, "num_attention_heads")
    hidden = _integer(document, "hidden_size")
    layers = _integer(document, "num_hidden_layers")
    positions = _integer(document, "max_position_embeddings")
    rope = rope_parameters(document)
    scaling = parse_scaling(rope, positions)
    bias = architecture.attention_bias == "by_key" and _flag(document, "attention_bias")
    return DecoderConfig(
        vocab_size=_integer(document, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_integer(document, "intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=_integer(document, "num_key_value_heads", heads),
        head_dim=_integer(document, "head_dim", hidden // heads),
        max_positions=served_positions(scaling, positions),
        norm_eps=_number(document, "rms_norm_eps", 1e-6),
        rope_theta=rope["rope_theta"],
        rope_scaling=scaling,
        unrotated_layers=_unrotated_layers(document, layers) if architecture.unrotated_layers else frozenset(),
        query_scaling=parse_query_scaling(rope, positions) if architecture.query_scaling else None,
        tied_embeddings=_flag(document, "tie_word_embeddings"),
        qkv_bias=bias or architecture.attention_bias == "query_key_value",
        output_bias=bias,
        mlp_bias=architecture.mlp_bias and _flag(document, "mlp_bias"),
        query_key_norm=architecture.query_key_norm,
        sliding_window=_sliding_window(document, architecture, layers),
        eos_token_ids=token_ids(document, "eos_token_id"),
    )


_SILU = ("silu", "swish")
_LARGEST = 2**31 - 1


def token_ids(document: Mapping[str, Any], key: str, file: str = "config.json") -> tuple[int, ...]:
    """Return the id, or the list of ids, that a document of `file` has under `key`; none without it.

    Raise ModelConfigError, naming the key and its value.
    """
    value = document.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(_is_whole(item, 0) for item in ids):
        raise ModelConfigError(f"{file}: {key} must be a token's id or a list of ids, not {value!r:.200}")
    return tuple(ids)


def _integer(document: Mapping[str, Any], key: str, default: int | None = None, *, least: int = 1) -> int:
    value = document.get(key)
    if value is None:
        value = default
    if not _is_whole(value, least):
        wanted = "a positive whole number" if least else "a whole number"
        raise ModelConfigError(f"config.json: {key} must be {wanted}, not {value!r:.200}; at most {_LARGEST}")
    return value


def _is_whole(value: object, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _LARGEST


def _number(document: Mapping[str, Any], key: str, default: float) -> float:
    value = document.get(key)
    if value is None:
        return default
    if not is_positive(value):
        raise ModelConfigError(f"config.json: {key} must be a positive number, not {value!r:.200}")
    return float(value)


def _flag(document: Mapping[str, Any], key: str) -> bool:
    value = document.get(key)
    if value is not None and not isinstance(value, bool):
        raise ModelConfigError(f"config.json: {key} must be true or false, not {value!r:.200}")
    return bool(value)


def _unrotated_layers(document: Mapping[str, Any], layers: int) -> frozenset[int]:
    """Return the layers whose entry in `no_rope_layers` is 0; by default every fourth (`no_rope_layer_interval`)."""
    rotated = document.get("no_rope_layers")
    if rotated is None:
        interval = _integer(document, "no_rope_layer_interval", 4)
        return frozenset(range(interval - 1, layers, interval))
    if not isinstance(rotated, list) or len(rotated) < layers or not all(entry in (0, 1) for entry in rotated):
        raise ModelConfigError(
            f"config.json: no_rope_layers must be a list of {layers} entries, each 0 or 1, not {rotated!r:.200}"
        )
    return frozenset(layer for layer in range(layers) if not rotated[layer])


def _sliding_window(document: Mapping[str, Any], architecture: Architecture, layers: int) -> int | None:
    """Return the attention window if a layer uses it, else None."""
    window, kinds = document.get("sliding_window"), document.get("layer_types")
    if kinds is not None and not (isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)):
        raise ModelConfigError(f"config.json: layer_types must be a list of names, not {kinds!r:.200}")
    if window is None or architecture.window == "never":
        return None
    if architecture.window == "by_switch" and not _flag(document, "use_sliding_window"):
        return None
    if architecture.window != "all_layers" and kinds is not None and "sliding_attention" not in kinds:
        return None
    if architecture.window == "by_switch" and kinds is None:
        first = _integer(document, "max_window_layers", 0, least=0)
        if first >= layers:
            return None  # Qwen: only layers from max_window_layers on have the window
    return _integer(document, "sliding_window")
