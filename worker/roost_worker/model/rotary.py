"""Rotary position embeddings (Su et al., 2021, RoFormer), in the half-split form that HF checkpoints use."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from roost_worker.model.config import DecoderConfig
from roost_worker.model.rope import DynamicScaling, LinearScaling, Llama3Scaling, QueryScaling, YarnScaling


def inverse_frequencies(config: DecoderConfig, positions: int) -> Tensor:
    """Return radians per position for each pair of dimensions, [head_dim / 2], float32 as in the reference code.

    `positions` is the longest context; only dynamic scaling depends on it.
    """
    match scaling := config.rope_scaling:
        case None:
            return _frequencies(config.rope_theta, config.head_dim)
        case LinearScaling():
            return _frequencies(config.rope_theta, config.head_dim) / scaling.factor
        case DynamicScaling():
            return _frequencies(_dynamic_base(config, scaling, positions), config.head_dim)
        case YarnScaling():
            return _yarn(config, scaling)
        case Llama3Scaling():
            return _stretch(_frequencies(config.rope_theta, config.head_dim), scaling)


def _frequencies(base: float, head_dim: int) -> Tensor:
    return 1.0 / (base ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim))


def _dynamic_base(config: DecoderConfig, scaling: DynamicScaling, positions: int) -> float:
    stretch = scaling.factor * max(1.0, positions / scaling.original_positions) - (scaling.factor - 1)
    return float(config.rope_theta * stretch ** (config.head_dim / (config.head_dim - 2)))


def _yarn(config: DecoderConfig, scaling: YarnScaling) -> Tensor:
    """Divide by `factor` from the dimension that turns `slow_turns` times on, blending from that of `fast_turns`."""
    low, high = (
        config.head_dim / 2 * math.log(scaling.original_positions / (turns * 2 * math.pi), config.rope_theta)
        for turns in (scaling.fast_turns, scaling.slow_turns)
    )
    if scaling.rounds_edges:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    width = high - low or 0.001  # as in the reference code
    divided = ((torch.arange(config.head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    frequencies = _frequencies(config.rope_theta, config.head_dim)
    return frequencies * (1 - divided) + frequencies / scaling.factor * divided


def _stretch(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Stretch as Llama 3.1 does: long wavelengths by `factor`, short ones not at all, those between by a blend."""
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_positions / wavelengths
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = blend.clamp(0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / scaling.factor)


def _query_scale(scaling: QueryScaling, places: Tensor) -> Tensor:
    contexts = torch.floor(places / scaling.original_positions)
    return (1 + scaling.beta * torch.log(1 + contexts)).view(-1, 1, 1)


@dataclass(frozen=True, slots=True)
class RotaryTable:
    """Cosines and signed sines, [positions, 1, head_dim]; and what queries are multiplied by, [positions, 1, 1]."""

    cos: Tensor
    sin: Tensor
    query_scale: Tensor | None = None

    @classmethod
    def build(cls, config: DecoderConfig, positions: int, dtype: torch.dtype, device: torch.device) -> "RotaryTable":
        """Build the table for positions 0 .. positions - 1."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        places = torch.arange(positions, dtype=wide)
        angles = torch.outer(places, inverse_frequencies(config, positions).to(wide))
        magnitude = config.rope_scaling.magnitude if isinstance(config.rope_scaling, YarnScaling) else 1.0
        cos = torch.cat((angles.cos(), angles.cos()), dim=-1) * magnitude
        sin = torch.cat((-angles.sin(), angles.sin()), dim=-1) * magnitude
        scale = None if config.query_scaling is None else _query_scale(config.query_scaling, places).to(device, dtype)
        cos, sin = (table.unsqueeze(1).to(device=device, dtype=dtype) for table in (cos, sin))
        return cls(cos, sin, scale)

    def at(self, positions: Tensor) -> "RotaryTable":
        """Gather the rows of `positions` [tokens]: once a batch, for all layers."""
        scale = None if self.query_scale is None else self.query_scale.index_select(0, positions)
        return RotaryTable(self.cos.index_select(0, positions), self.sin.index_select(0, positions), scale)

    def rotate(self, heads: Tensor) -> Tensor:
        """Rotate heads [tokens, heads, head_dim]; this table must have one row per token (see `at`)."""
        first, second = heads.chunk(2, dim=-1)
        return torch.addcmul(heads * self.cos, torch.cat((second, first), dim=-1), self.sin)
