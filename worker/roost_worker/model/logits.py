"""Processing of logits before a token is drawn, for whole batches, in float32 or float64.

The order is part of the contract, since the oracle repeats it: repetition penalty, frequency and presence penalty,
logit bias, min_tokens, grammar; then temperature, top-k, top-p and min-p on what is left.
"""

import numpy as np
import torch
from torch import Tensor

FORBIDDEN = float("-inf")
_USUAL_WIDTH = 1024
_STEPS = 1 << 40
"""Of a weight of 1: a vocabulary of 2^22 tokens has a sum that 64 bits hold."""


def apply_penalties(
    logits: Tensor, counts: Tensor, seen: Tensor, repetition: Tensor, frequency: Tensor, presence: Tensor
) -> Tensor:
    """Apply the repetition penalty (Keskar et al., 2019, CTRL), and the frequency and presence penalties.

    The first one counts tokens of context and output, the others tokens of the output.

    Args:
        logits: [rows, vocabulary].
        counts: [rows, vocabulary], how often each token is in the output.
        seen: [rows, vocabulary] bool, tokens of context or output.
        repetition, frequency, presence: [rows, 1].
    """
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    penalised = torch.where(seen, repeated, logits)
    return penalised - frequency * counts - presence * (counts > 0)


def unpack_mask(words: "np.ndarray", vocab_size: int) -> "np.ndarray":
    """Unpack bits [rows, ceil(vocabulary / 32)] int32 (bit set: allowed) to bool [rows, vocabulary]."""
    little = words.astype("<i4", copy=False).view(np.uint8)
    return np.unpackbits(little, axis=1, bitorder="little")[:, :vocab_size].astype(bool)


def truncate(scaled: Tensor, top_k: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """Apply top-k, then top-p (Holtzman et al., 2020) to the distribution that top-k leaves.

    Args:
        scaled: [rows, vocabulary] logits over temperature.
        top_k: [rows] int64, 0 for no limit.
        top_p: [rows] in (0, 1], 1 for no limit.
    Returns:
        Logits, descending, -inf where cut off, and their token ids: each [rows, candidates].
    """
    vocab = scaled.shape[1]
    limit = torch.where(top_k > 0, top_k.clamp(max=vocab), vocab)
    if scaled.device.type == "cpu" and vocab > _USUAL_WIDTH:
        values, ids, settled = _truncate_to(scaled, limit, top_p, _USUAL_WIDTH)
        if bool(settled):
            return values, ids
    return _truncate_to(scaled, limit, top_p, vocab)[:2]


def _truncate_to(scaled: Tensor, limit: Tensor, top_p: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Truncate the `width` largest logits only; the last result says whether that gives the same as all of them."""
    values, ids = scaled.topk(width, dim=1)
    values = values.masked_fill(torch.arange(width, device=scaled.device) >= limit[:, None], FORBIDDEN)
    within = limit <= width
    weights = (values - values[:, :1]).exp()
    cumulative = _cumulative(weights)
    everything = (scaled - values[:, :1]).exp().sum(dim=1)
    nucleus = top_p * torch.where(within, cumulative[:, -1], everything)
    cut = (cumulative - weights) >= nucleus[:, None]
    # With top_p 1 nothing may be cut, although the sum may fall short of the whole by rounding.
    cut &= top_p[:, None] < 1.0
    settled = within | ((limit == scaled.shape[1]) & (top_p < 1.0) & (cumulative[:, -1] >= nucleus))
    return values.masked_fill_(cut, FORBIDDEN), ids, settled.all()


def _cumulative(weights: Tensor) -> Tensor:
    """Return sums [rows, width] of weights up to 1, which do not depend on other rows.

    GPUs add floats in an order that depends on how many rows there are; whole numbers have the same sum in any.
    """
    if weights.device.type == "cpu":
        return weights.cumsum(dim=1)
    return (weights.double() * _STEPS).round().long().cumsum(dim=1).double() / _STEPS


def apply_min_p(scaled: Tensor, min_p: Tensor) -> Tensor:
    """Cut tokens less likely than min_p times the likeliest (Nguyen et al., 2024). `min_p` [rows], 0 for no limit."""
    floor = scaled.amax(dim=1, keepdim=True) + min_p.log()[:, None]
    return scaled.masked_fill(scaled < floor, FORBIDDEN)
