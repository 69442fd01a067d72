"""The model types of transformers that the decoder runs, and how their layers differ from Llama's. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the layers of a `model_type` have, and which keys of its config count."""

    class_name: str
    """Its class in transformers."""
    attention_bias: Literal["never", "query_key_value", "by_key"] = "never"
    """`by_key`: on all four projections if the config says `attention_bias`."""
    mlp_bias: bool = False
    """Whether the config's `mlp_bias` counts."""
    query_key_norm: bool = False
    """Whether queries and keys of each head are normed."""
    unrotated_layers: bool = False
    """Whether layers may have no rotary embedding (`no_rope_layers`)."""
    query_scaling: bool = False
    """Whether queries grow with their position (`llama_4_scaling_beta`)."""
    window: Literal["never", "all_layers", "by_layer", "by_switch"] = "never"
    """Which layers `sliding_window` is for: `by_layer` as `layer_types` says; `by_switch` likewise, and only if the
    config says `use_sliding_window`."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What transformers takes for keys that a config leaves out, where Llama's default is another."""


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("LlamaForCausalLM", attention_bias="by_key", mlp_bias=True),
    "ministral": Architecture(
        "MinistralForCausalLM", window="by_layer", defaults={"num_key_value_heads": 8, "sliding_window": 4096}
    ),
    "ministral3": Architecture(
        "Ministral3ForCausalLM",
        query_scaling=True,
        window="all_layers",
        defaults={"head_dim": 128, "num_key_value_heads": 8, "rms_norm_eps": 1e-5},
    ),
    "mistral": Architecture(
        "MistralForCausalLM", window="all_layers", defaults={"num_key_value_heads": 8, "sliding_window": 4096}
    ),
    "qwen2": Architecture("Qwen2ForCausalLM", attention_bias="query_key_value", window="by_switch"),
    "qwen3": Architecture(
        "Qwen3ForCausalLM",
        attention_bias="by_key",
        query_key_norm=True,
        window="by_switch",
        defaults={"head_dim": 128},
    ),
    "smollm3": Architecture(
        "SmolLM3ForCausalLM",
        attention_bias="by_key",
        mlp_bias=True,
        unrotated_layers=True,
        window="by_switch",
        defaults={"rope_theta": 2e6, "tie_word_embeddings": True},
    ),
}
"""By `model_type`."""

MODEL_TYPES = tuple(ARCHITECTURES)
