"""The tensors of a Llama-family model by its config: the names and shapes that the worker loads. Pure."""

from typing import Any

from roost_worker.convert.errors import ConvertError
from roost_worker.model.config import MODEL_TYPES

Shapes = dict[str, tuple[int, ...]]


def normalised_config(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return `config.json` as the worker reads it: with all keys, rope under its older names. Raise ConvertError."""
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ConvertError(f"model_type {model_type!r} is not supported; the worker runs {', '.join(MODEL_TYPES)}")
    try:
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        return {
            "architectures": [f"{model_type.capitalize()}ForCausalLM"],
            "attention_bias": bool(config.get("attention_bias", model_type == "qwen2")),
            "bos_token_id": config.get("bos_token_id"),
            "dtype": dtype,
            "eos_token_id": config.get("eos_token_id"),
            "head_dim": int(config.get("head_dim") or hidden // heads),
            "hidden_act": config.get("hidden_act", "silu"),
            "hidden_size": hidden,
            "intermediate_size": int(config["intermediate_size"]),
            "max_position_embeddings": int(config["max_position_embeddings"]),
            "mlp_bias": bool(config.get("mlp_bias", False)),
            "model_type": model_type,
            "num_attention_heads": heads,
            "num_hidden_layers": int(config["num_hidden_layers"]),
            "num_key_value_heads": int(config.get("num_key_value_heads") or heads),
            "rms_norm_eps": float(config["rms_norm_eps"]),
            **_rope(config),
            **_window(config, model_type),
            "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
            "vocab_size": int(config["vocab_size"]),
        }
    except KeyError as error:
        raise ConvertError(f"config.json has no {error}; is this a {model_type} model?") from error


def _window(config: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Return the attention window, if a layer uses one. Qwen models use theirs only if `use_sliding_window` is set."""
    by_switch = model_type.startswith("qwen")
    kinds = config.get("layer_types")
    slides = (config.get("use_sliding_window") or not by_switch) and (kinds is None or "sliding_attention" in kinds)
    window = config.get("sliding_window") if slides else None
    return {"sliding_window": window, **({"use_sliding_window": True} if window and by_switch else {})}


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    # transformers 5 writes rope_parameters, which holds rope_theta; earlier versions rope_theta and rope_scaling.
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = parameters.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    return {"rope_theta": float(theta), "rope_scaling": None if kind == "default" else parameters}


def expected_shapes(config: dict[str, Any]) -> Shapes:
    """Return the name and shape of each tensor of the model that a normalised config describes."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocabulary, hidden)
    layer = _layer_shapes(config)
    for index in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def _layer_shapes(config: dict[str, Any]) -> Shapes:
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: Shapes = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    shapes |= {f"mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
    shapes |= {"mlp.down_proj.weight": (hidden, inner), "self_attn.o_proj.weight": (hidden, query)}
    for name, rows in (("q", query), ("k", key), ("v", key)):
        shapes[f"self_attn.{name}_proj.weight"] = (rows, hidden)
        if config["attention_bias"]:
            shapes[f"self_attn.{name}_proj.bias"] = (rows,)
    if config["attention_bias"] and config["model_type"] == "llama":
        shapes["self_attn.o_proj.bias"] = (hidden,)
    if config["mlp_bias"]:
        shapes |= {f"mlp.{name}_proj.bias": (inner,) for name in ("gate", "up")} | {"mlp.down_proj.bias": (hidden,)}
    if config["model_type"] == "qwen3":
        shapes |= {f"self_attn.{name}_norm.weight": (head,) for name in ("q", "k")}
    return shapes


def check_shapes(expected: Shapes, stored: Shapes) -> None:
    """Raise ConvertError, naming the tensors, when some are missing or have another shape."""
    missing = sorted(set(expected) - set(stored))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ConvertError(f"missing tensor {', '.join(missing[:3])}{more}; the file is incomplete or of another model")
    for name, shape in expected.items():
        if stored[name] != shape:
            raise ConvertError(f"tensor {name} has shape {stored[name]}, but config.json says {shape}")
