"""Counter-based random numbers: what is drawn for a token depends on (seed, position, token id) and nothing else.

So a replay, another batch or another device draws the same tokens. There is no generator state to keep.

The mixing function is `lowbias32` of the hash-prospector project (multipliers 0x21f0aaad and 0x735a2d97, shifts 16,
15, 15): a bijection of 32-bit words. It runs in int64: a word is below 2^32 and both multipliers are below 2^31, so a
product fits without overflow, and CPU and GPU agree bit for bit.

    key(seed, position) = mix(mix(mix((seed mod 2^32) xor A) xor (seed div 2^32)) xor position)
    word(key, id)       = mix(key xor mix(id xor B))
"""

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_FIRST, _SECOND = 0x21F0AAAD, 0x735A2D97
_SEED_SALT, _TOKEN_SALT = 0x9E3779B9, 0x85EBCA6B
_LARGEST_BELOW_ONE = 1.0 - 2.0**-24


def mix(words: Tensor) -> Tensor:
    """Mix 32-bit words, stored as int64, in place, and return them."""
    words.bitwise_xor_(words >> 16).mul_(_FIRST).bitwise_and_(_WORD)
    words.bitwise_xor_(words >> 15).mul_(_SECOND).bitwise_and_(_WORD)
    return words.bitwise_xor_(words >> 15)


def position_keys(seeds: Tensor, positions: Tensor) -> Tensor:
    """Return one key per row.

    Args:
        seeds: [rows] int64, read as 64 bits.
        positions: [rows] int64, absolute position of the token to draw, below 2^32.
    """
    low, high = seeds & _WORD, (seeds >> 32) & _WORD
    return mix(mix(mix(low ^ _SEED_SALT) ^ high) ^ positions)


def token_words(ids: Tensor) -> Tensor:
    """Return the tokens' half of the hash, a constant of the vocabulary: [any shape] int64 to the same shape."""
    return mix(ids ^ _TOKEN_SALT)


def random_words(keys: Tensor, tokens: Tensor) -> Tensor:
    """Return 32 random bits per row and token.

    Args:
        keys: [rows], from position_keys.
        tokens: [tokens] or [rows, tokens], from token_words.
    """
    return mix(keys.unsqueeze(-1) ^ tokens)


def gumbel(words: Tensor) -> Tensor:
    """Turn random words into standard Gumbel noise, float32: -log(-log(1 - u)) with u = (word + 1/2) / 2^32 in (0, 1).

    log1p keeps the full resolution where it matters, at large values (up to 22.9).
    """
    uniform = ((words.to(torch.float64) + 0.5) * 2.0**-32).to(torch.float32).clamp_(max=_LARGEST_BELOW_ONE)
    return uniform.neg_().log1p_().neg_().log_().neg_()
