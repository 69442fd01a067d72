"""Tiny random models, each with one feature of a config: rotary scalings, biases, layers without rotation."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from roost_worker.convert.dummy import DummySpec, write_model

ORIGINAL = 64
"""Positions of the original context, where a scaling has one."""
STRETCHED = 4 * ORIGINAL


@dataclass(frozen=True)
class Feature:
    """A dummy's shapes, changes of its config, and which projections have a bias beside those of the shapes."""

    spec: DummySpec
    config: Mapping[str, Any] = field(default_factory=dict)
    biased: tuple[str, ...] = ()


def _scaled(rope_type: str, context: int = STRETCHED, **settings: Any) -> Feature:
    scaling = (("rope_type", rope_type), ("factor", 4.0), *settings.items())
    return Feature(DummySpec(head_dim=16, rope_theta=1e4, rope_scaling=scaling, context=context))


_YARN = {"original_max_position_embeddings": ORIGINAL}
_MINISTRAL3_ROPE = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": ORIGINAL,
    "max_position_embeddings": STRETCHED, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}  # fmt: skip

FEATURES = {
    "linear": _scaled("linear"),
    "dynamic": _scaled("dynamic", ORIGINAL),
    "yarn": _scaled("yarn", **_YARN),
    "yarn-beyond-the-positions": _scaled("yarn", ORIGINAL, **_YARN),
    "yarn-exact-edges": _scaled("yarn", **_YARN, truncate=False, beta_fast=16.0, beta_slow=2.0),
    "yarn-mscale": _scaled("yarn", **_YARN, mscale=1.0, mscale_all_dim=0.5),
    "yarn-attention-factor": _scaled("yarn", **_YARN, attention_factor=1.3),
    "attention-and-mlp-bias": Feature(
        DummySpec(), {"attention_bias": True, "mlp_bias": True}, ("q", "k", "v", "o", "gate", "up", "down")
    ),
    "qwen3-attention-bias": Feature(
        DummySpec(model_type="qwen3", attention_bias=True, query_key_norm=True, head_dim=16), biased=("o",)
    ),
    "smollm3": Feature(DummySpec(model_type="smollm3", layers=5, tied=True), {"pad_token_id": None}),
    "smollm3-listed-layers": Feature(DummySpec(model_type="smollm3"), {"pad_token_id": None, "no_rope_layers": [0, 1]}),
    "ministral": Feature(
        DummySpec(model_type="ministral"),
        {"sliding_window": 2048, "layer_types": ["full_attention", "sliding_attention"]},
    ),
    "ministral3": Feature(
        DummySpec(model_type="ministral3", head_dim=16, context=STRETCHED), {"rope_parameters": _MINISTRAL3_ROPE}
    ),
}


def feature_dir(name: str, folder: Path) -> Path:
    """Write the model `name` of `FEATURES` in float64, in the model store's layout, and return its folder."""
    feature, target = FEATURES[name], folder / name
    target.mkdir(parents=True)
    write_model(name, feature.spec, "float64", target)
    config = json.loads((target / "config.json").read_text())
    if "rope_parameters" in feature.config:
        del config["rope_theta"], config["rope_scaling"]
    (target / "config.json").write_text(json.dumps({**config, **feature.config}))
    _add_biases(target / "model.safetensors", feature.biased)
    return target


def _add_biases(path: Path, projections: tuple[str, ...]) -> None:
    tensors = load_file(path)
    random = torch.Generator().manual_seed(0)
    biases = {
        name.replace(".weight", ".bias"): torch.randn(tensor.shape[0], dtype=tensor.dtype, generator=random)
        for name, tensor in tensors.items()
        if name.endswith(tuple(f".{projection}_proj.weight" for projection in projections))
    }
    save_file({**tensors, **biases}, path)
