"""Draws tokens: the largest of logits / temperature + Gumbel noise, among what top-k, top-p and min-p leave.

The noise is that of `model/counter_rng.py`: of (seed, position, token id) and nothing else, from the same random words;
its last digits may differ from torch's. Of equal sums the smallest token id counts.

Rows are not sorted. What top-k and top-p leave are the logits from some number on, the row's floor, which is found bit
by bit: how many logits, or how much of the probability, are not below it. So equal logits are all left, or none is.
"""

import triton
import triton.language as tl

_FIRST = tl.constexpr(0x21F0AAAD)
_SECOND = tl.constexpr(0x735A2D97)
_SEED_SALT = tl.constexpr(0x9E3779B9)
_TOKEN_SALT = tl.constexpr(0x85EBCA6B)
_WORD_SIZE = tl.constexpr(2.0**-32)
_LARGEST_BELOW_ONE = tl.constexpr(1.0 - 2.0**-24)
_LOWEST = tl.constexpr(-(2**31))


@triton.jit(do_not_specialize_on_alignment=["logits", "temperatures", "top_ks", "top_ps", "min_ps", "floors"])
def find_floors(
    logits,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    floors,
    VOCAB: tl.constexpr,
    TILE: tl.constexpr,
    SPARE: tl.constexpr,
):
    """Find a row's floor. The grid is [rows]. Logits are summed in an order that depends on the row only.

    A row with top-k and top-p is read up to 34 times if it is bfloat16, up to 66 times if it is float32. One program
    computes a whole row, so a batch of few rows uses a small part of the GPU.

    Args:
        logits: [rows, VOCAB], contiguous.
        temperatures, top_ps, min_ps: [rows] float64, as in `model/drawing.py`.
        top_ks: [rows] int64.
        floors: [rows] int32, written: the least `_ordered` number that is left.
        SPARE: how many of the last bits are 0 in each logit, as float32.
    """
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures + row).to(tl.float32)
    top_k, top_p, min_p = tl.load(top_ks + row), tl.load(top_ps + row), tl.load(min_ps + row).to(tl.float32)
    floor = tl.full([], _LOWEST, tl.int32)
    if (temperature > 0) & ((top_k > 0) | (top_p < 1) | (min_p > 0)):
        numbers = logits + row * VOCAB
        top = _largest(numbers, VOCAB, TILE)
        is_drawn = top > float("-inf")
        if is_drawn & (top_k > 0):
            least = tl.minimum(top_k, VOCAB).to(tl.float64)
            floor = _bisect(numbers, top, temperature, floor, least, False, VOCAB, TILE, SPARE)
        if is_drawn & (top_p < 1):
            least = top_p * _left(numbers, top, temperature, floor, True, VOCAB, TILE)
            floor = _bisect(numbers, top, temperature, floor, least, True, VOCAB, TILE, SPARE)
        if is_drawn & (min_p > 0):
            least_number = tl.minimum(top, top + temperature * tl.log(min_p))  # rounded, it may not leave the largest
            floor = tl.maximum(floor, _ordered(least_number))
    tl.store(floors + row, floor)


@triton.jit
def _largest(numbers, VOCAB: tl.constexpr, TILE: tl.constexpr):
    top = float("-inf")
    for first in range(0, VOCAB, TILE):
        top = tl.maximum(top, tl.max(_load(numbers, first + tl.arange(0, TILE), VOCAB), axis=0))
    return top


@triton.jit
def _load(numbers, ids, VOCAB: tl.constexpr):
    """Return logits as float32; -inf behind the vocabulary's end, and for NaN, to which a maximum might prefer that."""
    tile = tl.load(numbers + ids, mask=ids < VOCAB, other=float("-inf")).to(tl.float32)
    return tl.where(tile == tile, tile, float("-inf"))


@triton.jit
def _bisect(
    numbers,
    top,
    temperature,
    floor,
    least,
    WEIGHS: tl.constexpr,
    VOCAB: tl.constexpr,
    TILE: tl.constexpr,
    SPARE: tl.constexpr,
):
    """Return the highest floor, `floor` or above, that leaves at least `least`."""
    low, high = (floor >> SPARE).to(tl.int64), (_ordered(top) >> SPARE).to(tl.int64) + 1
    while high - low > 1:
        middle = (low + high) >> 1
        left = _left(numbers, top, temperature, (middle << SPARE).to(tl.int32), WEIGHS, VOCAB, TILE)
        if left >= least:
            low = middle
        else:
            high = middle
    return tl.maximum(floor, (low << SPARE).to(tl.int32))


@triton.jit
def _left(numbers, top, temperature, floor, WEIGHS: tl.constexpr, VOCAB: tl.constexpr, TILE: tl.constexpr):
    """Return what a floor leaves, float64: how many logits, or with WEIGHS the sum of their weights; the largest's is
    1."""
    left = tl.zeros([], tl.float64)
    for first in range(0, VOCAB, TILE):
        ids = first + tl.arange(0, TILE)
        tile = _load(numbers, ids, VOCAB)
        is_left = (ids < VOCAB) & (_ordered(tile) >= floor)
        weights = tl.exp((tile - top) / temperature) if WEIGHS else tl.full([TILE], 1.0, tl.float32)
        left += tl.sum(tl.where(is_left, weights, 0.0), axis=0).to(tl.float64)
    return left


@triton.jit
def _ordered(numbers):
    """Return int32 in the order of float32 numbers, of which 0.0 and -0.0 are equal."""
    bits = (numbers + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit(do_not_specialize_on_alignment=["logits", "temperatures", "seeds", "positions", "floors"])
def draw_tiles(
    logits,
    temperatures,
    seeds,
    positions,
    floors,
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
        floors: as in `find_floors`.
        best: [rows, TILES, 2] float64, written: the best token's sum, and its id.
    """
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    ids = tile * TILE + tl.arange(0, TILE)
    numbers = _load(logits + row * VOCAB, ids, VOCAB)
    temperature = tl.load(temperatures + row).to(tl.float32)
    if temperature > 0:
        noise = _gumbel(_position_key(tl.load(seeds + row), tl.load(positions + row)), ids)
        sums = numbers / temperature + noise
        numbers = tl.where(_ordered(numbers) >= tl.load(floors + row), sums, float("-inf"))
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
    sums = tl.load(best + (row * TILES + tiles) * 2, mask=tiles < TILES, other=float("-inf"))
    tile = tl.argmax(sums, axis=0, tie_break_left=True)
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
