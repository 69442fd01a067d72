"""The rotary settings of a HF config: the base, and how frequencies are stretched for long contexts. Pure: no torch."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
"""Values of `rope_type` that the worker can run."""


_MOST_POSITIONS = 2**31 - 1


class ModelConfigError(ValueError):
    """The model, or its combination with the configuration, is not supported. The message says what is."""


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Position interpolation (Chen et al., 2023): every frequency is divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True)
class DynamicScaling:
    """Dynamic NTK scaling: a longer context has a higher base, from `original_positions` on.

    transformers takes the length of the sequence so far, so that a key that was cached early has another angle than
    the same key in a rebuilt cache. Here the context that the worker serves decides: decoding, prefill and a rebuild
    agree, with each other always and with transformers up to `original_positions` and at the whole context.
    """

    factor: float
    original_positions: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (Peng et al., 2023): frequencies that turn seldom are divided by `factor`, fast ones are kept."""

    factor: float
    original_positions: int
    fast_turns: float
    """Frequencies with more turns than this in the original context are kept."""
    slow_turns: float
    """Frequencies with fewer turns than this are divided."""
    rounds_edges: bool
    """Whether the blend between the two begins and ends at whole dimensions."""
    magnitude: float
    """What cosines and sines are multiplied by."""


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's stretch of low frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


RopeScaling = LinearScaling | DynamicScaling | YarnScaling | Llama3Scaling


@dataclass(frozen=True, slots=True)
class QueryScaling:
    """Ministral 3's growth of queries: by 1 + beta * ln(1 + number of whole original contexts before the position)."""

    beta: float
    original_positions: int


def rope_parameters(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary settings of a config under transformers 5's keys, `rope_type` and `rope_theta` among them.

    Earlier versions wrote `rope_theta` and `rope_scaling`. Raise ModelConfigError for settings that are not supported
    whatever their type is.
    """
    given = document.get("rope_parameters") or document.get("rope_scaling") or {}
    if not isinstance(given, Mapping):
        raise ModelConfigError(f"config.json: rope_scaling must be an object, not {given!r}")
    parameters = dict(given)
    nested = [key for key, value in parameters.items() if isinstance(value, Mapping)]
    if nested:
        raise ModelConfigError(
            f"rope_parameters by layer type ({', '.join(nested)}) are not supported; only one set is"
        )
    kind = parameters.pop("type", "default")
    parameters.setdefault("rope_type", kind)
    share = parameters.pop("partial_rotary_factor", document.get("partial_rotary_factor"))
    if share not in (None, 1, 1.0):
        raise ModelConfigError(f"partial_rotary_factor {share!r} is not supported; only 1 is")
    theta = parameters.get("rope_theta") or document.get("rope_theta") or 10000.0
    if not is_positive(theta):
        raise ModelConfigError(f"config.json: rope_theta must be a positive number, not {theta!r}")
    parameters["rope_theta"] = float(theta)
    if document.get("original_max_position_embeddings") is not None:
        parameters["original_max_position_embeddings"] = document["original_max_position_embeddings"]
    return parameters


def parse_scaling(parameters: Mapping[str, Any], positions: int) -> RopeScaling | None:
    """Return the scaling that `rope_parameters` describe, of a model with `max_position_embeddings` positions.

    Raise ModelConfigError, naming the key and its value.
    """
    match kind := parameters["rope_type"]:
        case "default":
            return None
        case "linear":
            return LinearScaling(_number(parameters, "factor"))
        case "dynamic":
            return DynamicScaling(_number(parameters, "factor"), positions)
        case "yarn":
            return _yarn(parameters, positions)
        case "llama3":
            return Llama3Scaling(
                _number(parameters, "factor"),
                _number(parameters, "low_freq_factor"),
                _number(parameters, "high_freq_factor"),
                _original_positions(parameters, positions),
            )
        case "longrope" | "su":
            reason = "its frequencies change when a sequence outgrows the original context, and cached keys would not"
            raise ModelConfigError(f"rope scaling {kind!r} is not supported: {reason}; use a model with {_SUPPORTED}")
    raise ModelConfigError(f"rope scaling {kind!r} is not supported; use a model with {_SUPPORTED}")


_SUPPORTED = f"{', '.join(ROPE_TYPES[:-1])} or {ROPE_TYPES[-1]} scaling"


def parse_query_scaling(parameters: Mapping[str, Any], positions: int) -> QueryScaling | None:
    """Return how queries grow with their position, or None. Raise ModelConfigError, naming the key and its value."""
    if not parameters.get("llama_4_scaling_beta"):
        return None
    return QueryScaling(_number(parameters, "llama_4_scaling_beta"), _original_positions(parameters, positions))


def served_positions(scaling: RopeScaling | None, positions: int) -> int:
    """Return the longest context that a model with `max_position_embeddings` positions can attend to."""
    match scaling:
        case DynamicScaling():
            return int(min(positions * scaling.factor, _MOST_POSITIONS))
        case YarnScaling():
            return max(positions, int(min(scaling.original_positions * scaling.factor, _MOST_POSITIONS)))
    return positions


def _yarn(parameters: Mapping[str, Any], positions: int) -> YarnScaling:
    original = _original_positions(parameters, positions)
    factor = positions / original if parameters.get("factor") is None else _number(parameters, "factor")
    if parameters.get("attention_factor") is not None:
        magnitude = _number(parameters, "attention_factor")
    elif parameters.get("mscale") and parameters.get("mscale_all_dim"):
        scales = (_number(parameters, "mscale"), _number(parameters, "mscale_all_dim"))
        magnitude = _yarn_magnitude(factor, scales[0]) / _yarn_magnitude(factor, scales[1])
    else:
        magnitude = _yarn_magnitude(factor, 1.0)
    return YarnScaling(
        factor,
        original,
        _number(parameters, "beta_fast") if parameters.get("beta_fast") else 32.0,
        _number(parameters, "beta_slow") if parameters.get("beta_slow") else 1.0,
        bool(parameters.get("truncate", True)),
        magnitude,
    )


def _yarn_magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _original_positions(parameters: Mapping[str, Any], positions: int) -> int:
    key = "original_max_position_embeddings"
    return positions if parameters.get(key) is None else _whole(parameters, key)


def _whole(parameters: Mapping[str, Any], key: str) -> int:
    value = _number(parameters, key)
    if not 1 <= value <= _MOST_POSITIONS:
        raise ModelConfigError(
            f"config.json: {key} must be a positive whole number, not {value:g}; at most {_MOST_POSITIONS}"
        )
    return int(value)


def _number(parameters: Mapping[str, Any], key: str) -> float:
    value = parameters.get(key)
    if not is_positive(value):
        raise ModelConfigError(
            f"config.json: rope_scaling of type {parameters['rope_type']} needs a positive number {key}, "
            f"not {value!r}; take it from the model's source"
        )
    return float(value)


def is_positive(value: object) -> TypeGuard[float]:
    """Return whether a value of a config is a positive number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
