"""Rotary position embeddings (Su et al., 2021, RoFormer), in the half-split form that HF checkpoints use."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from roost_worker.model.config import DecoderConfig, RopeScaling


def inverse_frequencies(config: DecoderConfig) -> Tensor:
    """Return radians per position for each pair of dimensions, [head_dim / 2], float32 as in the reference code."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    return frequencies if config.rope_scaling is None else _stretch(frequencies, config.rope_scaling)


def _stretch(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Stretch as Llama 3.1 does: long wavelengths by `factor`, short ones not at all, those between by a blend."""
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_positions / wavelengths
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = blend.clamp(0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / scaling.factor)


@dataclass(frozen=True, slots=True)
class RotaryTable:
    """Cosines and signed sines, [positions, 1, head_dim]."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def build(cls, config: DecoderConfig, positions: int, dtype: torch.dtype, device: torch.device) -> "RotaryTable":
        """Build the table for positions 0 .. positions - 1."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        angles = torch.outer(torch.arange(positions, dtype=wide), inverse_frequencies(config).to(wide))
        cos = torch.cat((angles.cos(), angles.cos()), dim=-1)
        sin = torch.cat((-angles.sin(), angles.sin()), dim=-1)
        return cls(*(table.unsqueeze(1).to(device=device, dtype=dtype) for table in (cos, sin)))

    def at(self, positions: Tensor) -> "RotaryTable":
        """Gather the rows of `positions` [tokens]: once a batch, for all layers."""
        return RotaryTable(self.cos.index_select(0, positions), self.sin.index_select(0, positions))

    def rotate(self, heads: Tensor) -> Tensor:
        """Rotate heads [tokens, heads, head_dim]; this table must have one row per token (see `at`)."""
        first, second = heads.chunk(2, dim=-1)
        return torch.addcmul(heads * self.cos, torch.cat((second, first), dim=-1), self.sin)
