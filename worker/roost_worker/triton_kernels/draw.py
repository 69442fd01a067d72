"""Draws tokens from whole distributions: the largest of logits / temperature + Gumbel noise, read once.

The noise is that of `model/counter_rng.py`: of (seed, position, token id) and nothing else, from the same random words;
its last digits may differ from torch's. Of equal numbers the smallest token id counts.
"""

import triton
import triton.language as tl

_FIRST = tl.constexpr(0x21F0AAAD)
_SECOND = tl.constexpr(0x735A2D97)
_SEED_SALT = tl.constexpr(0x9E3779B9)
_TOKEN_SALT = tl.constexpr(0x85EBCA6B)
_WORD_SIZE = tl.constexpr(2.0**-32)
_LARGEST_BELOW_ONE = tl.constexpr(1.0 - 2.0**-24)


@triton.jit(do_not_specialize_on_alignment=["logits", "temperatures", "seeds", "positions"])
def draw_tiles(
    logits,
    temperatures,
    seeds,
    positions,
    best,
    VOCAB: tl.constexpr,
    TILES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Find the best of TILE tokens of a row. The grid is [rows, TILES].

    Args:
        logits: [rows, VOCAB], contiguous.
        temperatures: [rows] float64; 0 for the largest logit.
        seeds, positions: [rows] int64, as in `counter_rng.position_keys`.
        best: [rows, TILES, 2] float64: the best token's number, and its id.
    """
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    ids = tile * TILE + tl.arange(0, TILE)
    is_token = ids < VOCAB
    numbers = tl.load(logits + row * VOCAB + ids, mask=is_token, other=float("-inf")).to(tl.float32)
    temperature = tl.load(temperatures + row).to(tl.float32)
    if temperature > 0:
        noise = _gumbel(_position_key(tl.load(seeds + row), tl.load(positions + row)), ids)
        numbers = tl.div_rn(numbers, temperature + tl.zeros_like(numbers)) + noise
    top, place = tl.max(numbers, axis=0, return_indices=True, return_indices_tie_break_left=True)
    target = best + (row * TILES + tile) * 2
    tl.store(target, top.to(tl.float64))
    tl.store(target + 1, (tile * TILE + place).to(tl.float64))


@triton.jit(do_not_specialize_on_alignment=["tokens"])
def merge_tiles(best, tokens, TILES: tl.constexpr, WIDTH: tl.constexpr):
    """Take the best of a row's tiles. The grid is [rows].

    Args:
        best: as in `draw_tiles`.
        tokens: [rows] int64, written.
        WIDTH: TILES or more, a power of two.
    """
    row = tl.program_id(0).to(tl.int64)
    tiles = tl.arange(0, WIDTH)
    numbers = tl.load(best + (row * TILES + tiles) * 2, mask=tiles < TILES, other=float("-inf"))
    tile = tl.argmax(numbers, axis=0, tie_break_left=True)
    tl.store(tokens + row, tl.load(best + (row * TILES + tile) * 2 + 1).to(tl.int64))


@triton.jit
def _position_key(seed, position):
    low, high = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    return _mix(_mix(_mix(low ^ _SEED_SALT) ^ high) ^ position.to(tl.uint32))


@triton.jit
def _gumbel(key, ids):
    """Return noise, float32, of the shape of `ids`. In float64 1 - u is exact, so no log1p is needed."""
    words = _mix(key ^ _mix(ids.to(tl.uint32) ^ _TOKEN_SALT))
    uniform = ((words.to(tl.float64) + 0.5) * _WORD_SIZE).to(tl.float32)
    below_one = tl.minimum(uniform, _LARGEST_BELOW_ONE).to(tl.float64)
    return -tl.log((-tl.log(1.0 - below_one)).to(tl.float32))


@triton.jit
def _mix(words):
    """`counter_rng.mix`, of uint32."""
    words = (words ^ (words >> 16)) * _FIRST
    words = (words ^ (words >> 15)) * _SECOND
    return words ^ (words >> 15)
