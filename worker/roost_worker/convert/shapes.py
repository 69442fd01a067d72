"""The tensors of a decoder by its config: the names and shapes that the worker loads. Pure."""

from collections.abc import Iterable

from roost_worker.convert.errors import ConvertError
from roost_worker.model.config import DecoderConfig

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(config: DecoderConfig) -> Shapes:
    """Return the name and shape of each tensor of the model."""
    shapes: Shapes = {EMBEDDING: (config.vocab_size, config.hidden_size), "model.norm.weight": (config.hidden_size,)}
    if not config.tied_embeddings:
        shapes[HEAD] = (config.vocab_size, config.hidden_size)
    layer = _layer_shapes(config)
    for index in range(config.num_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def _layer_shapes(config: DecoderConfig) -> Shapes:
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    query, key = config.num_heads * head, config.num_kv_heads * head
    shapes: Shapes = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    shapes |= {f"mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
    shapes |= {"mlp.down_proj.weight": (hidden, inner), "self_attn.o_proj.weight": (hidden, query)}
    for name, rows in (("q", query), ("k", key), ("v", key)):
        shapes[f"self_attn.{name}_proj.weight"] = (rows, hidden)
        if config.qkv_bias:
            shapes[f"self_attn.{name}_proj.bias"] = (rows,)
    if config.output_bias:
        shapes["self_attn.o_proj.bias"] = (hidden,)
    if config.mlp_bias:
        shapes |= {f"mlp.{name}_proj.bias": (inner,) for name in ("gate", "up")} | {"mlp.down_proj.bias": (hidden,)}
    if config.query_key_norm:
        shapes |= {f"self_attn.{name}_norm.weight": (head,) for name in ("q", "k")}
    return shapes


def check_names(expected: Shapes, stored: Iterable[str]) -> None:
    """Raise ConvertError, naming the tensors, when some are missing."""
    missing = sorted(set(expected) - set(stored))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ConvertError(f"missing tensor {', '.join(missing[:3])}{more}; the file is incomplete or of another model")


def check_shapes(expected: Shapes, stored: Shapes) -> None:
    """Raise ConvertError, naming the tensors, when some are missing or have another shape."""
    check_names(expected, stored)
    for name, shape in expected.items():
        if stored[name] != shape:
            raise ConvertError(f"tensor {name} has shape {stored[name]}, but config.json says {shape}")
