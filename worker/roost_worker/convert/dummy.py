"""Tiny random models, generated on demand: `dummy://NAME`. Deterministic by name; needs no torch or transformers."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from roost_worker.convert.errors import ConvertError
from roost_worker.convert.layout import WEIGHTS, write_json
from roost_worker.convert.safetensors_file import TensorToWrite, array_bytes, write_safetensors
from roost_worker.model.architectures import ARCHITECTURES
from roost_worker.render.description import TemplateDescription
from roost_worker.render.formats import CHATML
from roost_worker.render.tokenizing import byte_characters

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_BYTES = 256
VOCABULARY = 264
"""256 bytes, three control tokens, and five ids without a token, like the padding of real models' vocabularies."""
LOGIT_STD = 4.0
"""Standard deviation that logits are scaled to, so that the largest two are rarely a near tie."""


@dataclass(frozen=True, slots=True)
class DummySpec:
    """Shapes of a dummy model."""

    model_type: str = "llama"
    layers: int = 2
    hidden: int = 64
    intermediate: int = 192
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 8
    tied: bool = False
    rope_theta: float = 10000.0
    rope_scaling: tuple[tuple[str, Any], ...] = ()
    attention_bias: bool = False
    query_key_norm: bool = False
    context: int = 8192
    merges: tuple[tuple[str, str], ...] = ()
    """Pairs of letters that are one token; at most five, which take the ids that are otherwise unused."""
    vocabulary: int = VOCABULARY
    """Ids that the model knows, `VOCABULARY` at least; those behind the tokens' have none."""


_LLAMA3_ROPE = (
    ("rope_type", "llama3"),
    ("factor", 8.0),
    ("low_freq_factor", 1.0),
    ("high_freq_factor", 4.0),
    ("original_max_position_embeddings", 1024),
)

_PAIRS = (("t", "h"), ("i", "n"), ("e", "r"), ("a", "n"), ("o", "n"))

SPECS = {
    "llama-tiny": DummySpec(),
    "llama-tiny-tied": DummySpec(tied=True),
    "llama-tiny-long": DummySpec(context=1 << 18),
    "llama-tiny-pairs": DummySpec(merges=_PAIRS),
    "llama3-tiny": DummySpec(rope_theta=500000.0, rope_scaling=_LLAMA3_ROPE),
    "qwen2-tiny": DummySpec(model_type="qwen2", attention_bias=True, rope_theta=1e6),
    "qwen3-tiny": DummySpec(model_type="qwen3", query_key_norm=True, head_dim=16, rope_theta=1e6),
    "mistral-tiny": DummySpec(model_type="mistral", kv_heads=2),
    "smollm2-tiny": DummySpec(hidden=72, heads=9, kv_heads=3, layers=3, tied=True, rope_theta=1e5),
}


def write_dummy(name: str, dtype: str, folder: Path) -> None:
    """Write the model `name` of `SPECS` in the store's layout. Raise ConvertError for an unknown name."""
    if name not in SPECS:
        raise ConvertError(f"dummy://{name} is unknown; use one of {', '.join(sorted(SPECS))}")
    write_model(name, SPECS[name], dtype, folder)


def write_model(name: str, spec: DummySpec, dtype: str, folder: Path) -> None:
    """Write a model of these shapes in the store's layout. Its weights depend on `name`."""
    write_json(folder / "config.json", dummy_config(spec, dtype))
    _save(_weights(name, spec), dtype, folder / WEIGHTS)
    _tokenizer(spec.merges).save(str(folder / "tokenizer.json"))
    eos = _BYTES + _SPECIAL.index("<|im_end|>")
    template = TemplateDescription(CHATML.turns, "", "<|im_end|>", (eos, _BYTES), CHATML.name)
    template.save(folder / "template.json")


def dummy_config(spec: DummySpec, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a model of these shapes."""
    return {
        "architectures": [ARCHITECTURES[spec.model_type].class_name],
        "attention_bias": spec.attention_bias,
        "dtype": dtype,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "hidden_size": spec.hidden,
        "intermediate_size": spec.intermediate,
        "max_position_embeddings": spec.context,
        "mlp_bias": False,
        "model_type": spec.model_type,
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
        "num_key_value_heads": spec.kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_scaling": dict(spec.rope_scaling) or None,
        "rope_theta": spec.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": spec.tied,
        "vocab_size": spec.vocabulary,
    }


def _weights(name: str, spec: DummySpec) -> dict[str, NDArray[np.float64]]:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> NDArray[np.float64]:
        return np.asarray(random.standard_normal((rows, columns)) * (gain / columns**0.5))

    def norm(size: int) -> NDArray[np.float64]:
        return np.asarray(1.0 + 0.1 * random.standard_normal(size))

    tensors = {"model.embed_tokens.weight": matrix(spec.vocabulary, spec.hidden, LOGIT_STD)}
    for layer in range(spec.layers):
        tensors |= {f"model.layers.{layer}.{key}": value for key, value in _layer(spec, matrix, norm, random).items()}
    tensors["model.norm.weight"] = norm(spec.hidden)
    if not spec.tied:
        tensors["lm_head.weight"] = matrix(spec.vocabulary, spec.hidden, LOGIT_STD)
    return tensors


def _layer(spec: DummySpec, matrix: Any, norm: Any, random: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    query, key = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    # With these gains each layer adds about as much to the residual as the embedding; else a tied model repeats itself.
    tensors = {
        "input_layernorm.weight": norm(spec.hidden),
        "post_attention_layernorm.weight": norm(spec.hidden),
        "self_attn.q_proj.weight": matrix(query, spec.hidden, 2.0),
        "self_attn.k_proj.weight": matrix(key, spec.hidden, 2.0),
        "self_attn.v_proj.weight": matrix(key, spec.hidden, 2.0),
        "self_attn.o_proj.weight": matrix(spec.hidden, query, 2.0),
        "mlp.gate_proj.weight": matrix(spec.intermediate, spec.hidden, 2.0),
        "mlp.up_proj.weight": matrix(spec.intermediate, spec.hidden, 2.0),
        "mlp.down_proj.weight": matrix(spec.hidden, spec.intermediate, 2.0),
    }
    if spec.attention_bias:
        sizes = (("q", query), ("k", key), ("v", key))
        tensors |= {f"self_attn.{part}_proj.bias": random.standard_normal(size) for part, size in sizes}
    if spec.query_key_norm:
        tensors |= {f"self_attn.{part}_norm.weight": norm(spec.head_dim) for part in ("q", "k")}
    return tensors


def _save(tensors: dict[str, NDArray[np.float64]], dtype: str, path: Path) -> None:
    parts = {name: TensorToWrite(value.shape, partial(array_bytes, value, dtype)) for name, value in tensors.items()}
    write_safetensors(path, parts, dtype)


def _tokenizer(merges: tuple[tuple[str, str], ...]) -> Tokenizer:
    joined = ["".join(pair) for pair in merges]
    tokens = [*byte_characters(), *(_SPECIAL if joined else ()), *joined]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in _SPECIAL])
    return tokenizer
